"""The command line and the environment: forms, defaults, precedence, every refusal, help and documentation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import settings
from sidecar.settings import Address, HelpRequested, Settings, UsageError

ROOT = Path(__file__).parents[2]
README_BEGIN = "<!-- settings: begin (python -m sidecar.settings) -->\n"
README_END = "<!-- settings: end -->"

DURATION = "a duration such as 2.5s, 500ms or 1m30s"
ADDRESS = ":4040, 0.0.0.0:4040, localhost:4040, [::1]:4040, or empty for no server"
PRINTABLE = "1 to 253 printable characters"
LABEL = "lower-case letters, digits and '-', at most 63, with a letter or digit at both ends"
SUBDOMAIN = "lower-case letters, digits, '-' and '.', at most 253, with a letter or digit at both ends"
BOOLEANS = "true, false, t, f, 1, 0"
LABEL_VALUE = "letters, digits, '-', '_' and '.', at most 63, with a letter or digit at both ends"
SLOT = "a duration from 10ms to 10s, such as 500ms"
WEIGHT = "a whole number from 1 to 1000"
HEALTH_URL = "an http:// or https:// URL such as http://localhost:8080/healthz"
POD_LABEL = "key=value, as labels are written, such as example.com/role=leader"


def load(*argv: str, **environ: str) -> Settings:
    """Load with an election named, on a machine called `machine`."""
    return settings.load(["--election=e", *argv], environ, "machine")


def refusal(argv: Sequence[str], environ: Mapping[str, str], hostname: str = "machine") -> UsageError:
    """Return the error with which these are refused."""
    with pytest.raises(UsageError) as refused:
        settings.load(argv, environ, hostname)
    return refused.value


def test_defaults_are_those_of_the_stock_image() -> None:
    """With an election and nothing else, every setting has its documented default."""
    assert load() == Settings(
        election="e",
        identity="machine",
        namespace="default",
        ttl=10.0,
        renew_deadline=10 * 2 / 3,
        retry_period=2.5,
        http=Address(None, 4040),
        use_cluster_credentials=False,
        kubeconfig=None,
        log_format="json",
        log_level="info",
        balance=True,
        rebalance=True,
        group="default",
        balance_scope="namespace",
        balance_slot=0.5,
        weight=1,
        lock="endpoints",
        release_on_exit=True,
        release_delay=0.0,
        health_url="",
        health_interval=2.0,
        health_failures=3,
        health_successes=1,
        pod_label=None,
        probe_address=None,
        metrics_address=None,
        pod_name="",
        pod_namespace="default",
        pod_uid="",
        node_name="",
        warnings=(),
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["--election=x"],
        ["--election", "x"],
        ["-election=x"],
        ["-election", "x"],
        ["--election=first", "--election=x"],
        ["--election", "first", "-election=x"],
        ["positional", "--election=x"],
        ["positional", "-", "", "--election", "x", "more"],
        ["--use-cluster-credentials", "false", "--election=x"],
        ["--election=x", "--", "--election=y", "--unknown"],
        ["--election=x", "--"],
    ],
)
def test_flag_forms(argv: list[str]) -> None:
    """One dash or two, value after `=` or as next argument, the last one wins, positional arguments are ignored."""
    assert settings.load(argv, {}, "machine").election == "x"


@pytest.mark.parametrize(
    ("argv", "identity"),
    [
        (["--id", "-x"], "-x"),
        (["--id", "--ttl=3s"], "--ttl=3s"),
        (["--id", "--"], "--"),
        (["--id=a=b"], "a=b"),
        (["-id==b"], "=b"),
        (["--id", "a b"], "a b"),
        (["--id", "-h"], "-h"),
    ],
)
def test_a_flag_takes_its_value_whatever_it_begins_with(argv: list[str], identity: str) -> None:
    """As in Go: the next argument is the value, and only the first `=` divides."""
    assert load(*argv).identity == identity


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_true_in_every_form(text: str) -> None:
    """Go's strconv.ParseBool decides what is true, in a flag and in a variable."""
    assert load(f"--use-cluster-credentials={text}").use_cluster_credentials
    assert load(ELECTION_USE_CLUSTER_CREDENTIALS=text).use_cluster_credentials


@pytest.mark.parametrize("text", ["0", "f", "F", "false", "FALSE", "False"])
def test_false_in_every_form(text: str) -> None:
    """Go's strconv.ParseBool decides what is false; a flag that says so wins over a variable that says true."""
    given_true = {"ELECTION_USE_CLUSTER_CREDENTIALS": "true"}
    assert not load(f"-use-cluster-credentials={text}", **given_true).use_cluster_credentials
    assert not load(ELECTION_USE_CLUSTER_CREDENTIALS=text).use_cluster_credentials


@pytest.mark.parametrize("flag", ["--use-cluster-credentials", "-use-cluster-credentials"])
def test_a_boolean_never_takes_the_next_argument(flag: str) -> None:
    """Without `=` it is true and what follows is read on its own: a flag as a flag, a word as positional."""
    loaded = load(flag, "--id=x")
    assert (loaded.use_cluster_credentials, loaded.identity) == (True, "x")
    assert load(flag, "false").use_cluster_credentials


class Row(NamedTuple):
    """One setting: its field, its flag and variable, and a text for each with the value that the text has."""

    field: str
    flag: str
    text: str
    value: object
    variable: str
    other_text: str
    other_value: object


EVERY_SETTING = [
    Row("election", "election", "a.b-c", "a.b-c", "ELECTION_NAME", "from-env", "from-env"),
    Row("identity", "id", "me", "me", "ELECTION_ID", "you", "you"),
    Row("namespace", "election-namespace", "ns", "ns", "ELECTION_NAMESPACE", "other", "other"),
    Row("ttl", "ttl", "1m30s", 90.0, "ELECTION_TTL", "15s", 15.0),
    Row("renew_deadline", "renew-deadline", "9s", 9.0, "ELECTION_RENEW_DEADLINE", "8s", 8.0),
    Row("retry_period", "retry-period", "2s", 2.0, "ELECTION_RETRY_PERIOD", "1500ms", 1.5),
    Row("http", "http", "localhost:1", Address("localhost", 1), "ELECTION_HTTP", ":2", Address(None, 2)),
    Row(
        "use_cluster_credentials",
        "use-cluster-credentials",
        "true",
        True,  # noqa: FBT003 - a value in a table
        "ELECTION_USE_CLUSTER_CREDENTIALS",
        "false",
        False,  # noqa: FBT003 - a value in a table
    ),
    Row("kubeconfig", "kubeconfig", "/a", "/a", "KUBECONFIG", "/b:/c", "/b:/c"),
    Row("log_format", "log-format", "console", "console", "ELECTION_LOG_FORMAT", "json", "json"),
    Row("log_level", "log-level", "error", "error", "ELECTION_LOG_LEVEL", "debug", "debug"),
    Row(
        "probe_address",
        "probe-address",
        ":8080",
        Address(None, 8080),
        "ELECTION_PROBE_ADDRESS",
        "[::1]:1",
        Address("::1", 1),
    ),
    Row(
        "metrics_address",
        "metrics-address",
        ":9090",
        Address(None, 9090),
        "ELECTION_METRICS_ADDRESS",
        "x:2",
        Address("x", 2),
    ),
]


@pytest.mark.parametrize("row", EVERY_SETTING, ids=lambda row: row.field)
def test_every_setting_from_its_flag_and_its_variable(row: Row) -> None:
    """Each flag and each variable sets its field; where both are given the flag wins."""
    named = {"ELECTION_NAME": "e"}
    both = named | {row.variable: row.other_text}
    assert getattr(settings.load([f"--{row.flag}={row.text}"], named, "machine"), row.field) == row.value
    assert getattr(settings.load([], both, "machine"), row.field) == row.other_value
    assert getattr(settings.load([f"--{row.flag}={row.text}"], both, "machine"), row.field) == row.value


def test_the_table_and_these_tests_name_the_same_flags() -> None:
    """A flag or variable added to the table must be added to the test of every setting."""
    in_table = {(option.flag, option.variable) for option in settings.TABLE if option.flag and option.variable}
    assert {(row.flag, row.variable) for row in EVERY_SETTING} == in_table


@pytest.mark.parametrize(
    ("variable", "field"),
    [
        ("POD_UID", "pod_uid"),
        ("NODE_NAME", "node_name"),
    ],
)
def test_the_downward_api(variable: str, field: str) -> None:
    """What the downward API gives is taken over; unknown is the empty text."""
    assert getattr(load(**{variable: "given"}), field) == "given"
    assert getattr(load(**{variable: ""}), field) == ""
    assert getattr(load(), field) == ""


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("ELECTION_BALANCE", "auto", "balance", True),
        ("ELECTION_BALANCE", "off", "balance", False),
        ("ELECTION_REBALANCE", "auto", "rebalance", True),
        ("ELECTION_REBALANCE", "never", "rebalance", False),
        ("ELECTION_GROUP", "Team_a.1", "group", "Team_a.1"),
        ("ELECTION_GROUP", "g" * 63, "group", "g" * 63),
        ("ELECTION_BALANCE_SCOPE", "namespace", "balance_scope", "namespace"),
        ("ELECTION_BALANCE_SCOPE", "cluster", "balance_scope", "cluster"),
        ("ELECTION_BALANCE_SLOT", "10ms", "balance_slot", 0.01),
        ("ELECTION_BALANCE_SLOT", "10s", "balance_slot", 10.0),
        ("ELECTION_WEIGHT", "1", "weight", 1),
        ("ELECTION_WEIGHT", "1000", "weight", 1000),
        ("ELECTION_WEIGHT", "007", "weight", 7),
        ("ELECTION_LOCK", "endpoints", "lock", "endpoints"),
        ("ELECTION_LOCK", "leases", "lock", "leases"),
        ("ELECTION_LOCK", "endpointsleases", "lock", "endpointsleases"),
        ("ELECTION_RELEASE_ON_EXIT", "false", "release_on_exit", False),
        ("ELECTION_RELEASE_DELAY", "15s", "release_delay", 15.0),
        ("ELECTION_RELEASE_DELAY", "1h", "release_delay", 3600.0),
        ("ELECTION_HEALTH_URL", "http://localhost:8080/healthz", "health_url", "http://localhost:8080/healthz"),
        ("ELECTION_HEALTH_URL", "https://[::1]/", "health_url", "https://[::1]/"),
        ("ELECTION_HEALTH_INTERVAL", "100ms", "health_interval", 0.1),
        ("ELECTION_HEALTH_FAILURES", "1", "health_failures", 1),
        ("ELECTION_HEALTH_SUCCESSES", "999", "health_successes", 999),
        ("ELECTION_POD_LABEL", "role=leader", "pod_label", ("role", "leader")),
        ("ELECTION_POD_LABEL", "example.com/role=leader", "pod_label", ("example.com/role", "leader")),
        ("POD_NAME", "web-0", "pod_name", "web-0"),
        ("POD_NAMESPACE", "shop", "pod_namespace", "shop"),
    ],
)
def test_the_balance_is_set_by_variables(variable: str, text: str, field: str, value: object) -> None:
    """Each of the variables that have no flag sets its field, to both ends of its range, and no warning is given."""
    loaded = load(**{variable: text})
    assert getattr(loaded, field) == value
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    "option", [option for option in settings.TABLE if not option.flag], ids=lambda one: one.variable
)
def test_what_has_no_flag_is_no_flag(option: settings.Option[object]) -> None:
    """A variable without a flag is not set by a flag of a similar name: that one is unknown."""
    flag = option.variable.removeprefix("ELECTION_").lower().replace("_", "-")
    assert "unknown flag" in str(refusal(["--election=e", f"--{flag}=1"], {}))


def test_the_identity_is_the_pod_name_before_the_host_name() -> None:
    """--id, then $ELECTION_ID, then $POD_NAME, then the host name."""
    assert load("--id=a", ELECTION_ID="b", POD_NAME="c").identity == "a"
    assert load(ELECTION_ID="b", POD_NAME="c").identity == "b"
    assert load(POD_NAME="c").identity == "c"
    assert load(ELECTION_ID="", POD_NAME="").identity == "machine"


def test_the_pod_namespace_is_not_the_namespace_of_the_election() -> None:
    """As in the stock image the election is in `default` unless told otherwise."""
    assert load(POD_NAMESPACE="shop").namespace == "default"


@pytest.mark.parametrize("variable", [option.variable for option in settings.TABLE if option.variable])
def test_an_empty_variable_counts_as_not_set(variable: str) -> None:
    """Manifests often have empty values: they change nothing, except that an empty $ELECTION_HTTP is no server."""
    loaded = load(**{variable: ""})
    if variable == "ELECTION_HTTP":
        assert loaded.http is None
    else:
        assert loaded == load()


def test_no_server_on_request() -> None:
    """An empty address, in flag or variable, is no server; a flag wins over an empty variable."""
    assert load("--http=").http is None
    assert load("--http", "").http is None
    assert load("--http=", ELECTION_HTTP=":1").http is None
    assert load("--http=:1", ELECTION_HTTP="").http == Address(None, 1)


def test_an_empty_kubeconfig_flag_is_none() -> None:
    """As in the stock image's forks, whose default it is; it wins over $KUBECONFIG."""
    assert load("--kubeconfig=", KUBECONFIG="/a").kubeconfig is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":4040", Address(None, 4040)),
        ("0.0.0.0:4040", Address("0.0.0.0", 4040)),  # noqa: S104 - nothing is bound
        ("localhost:4040", Address("localhost", 4040)),
        ("[::1]:4040", Address("::1", 4040)),
        ("[::]:4040", Address("::", 4040)),
        ("[fe80::1%eth0]:4040", Address("fe80::1%eth0", 4040)),
        ("127.0.0.1:4040", Address("127.0.0.1", 4040)),
        ("my_host.example.com:65535", Address("my_host.example.com", 65535)),
        (":0", Address(None, 0)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    """The forms that Go's net package takes; without a host it is every interface. Written, it is the same text."""
    assert load(f"--http={text}").http == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("4040", "no port"),
        ("localhost", "no port"),
        ("[::1]", "no port"),
        ("::1", "bad IPv6 address, or one without brackets"),
        ("::1:4040", "bad IPv6 address, or one without brackets"),
        ("http://localhost:4040", "bad IPv6 address, or one without brackets"),
        ("[::1:4040", "bad IPv6 address, or one without brackets"),
        ("[localhost]:4040", "bad host"),
        ("[::1%\n]:4040", "bad IPv6 address, or one without brackets"),
        ("[:::1]:4040", "bad IP address"),
        ("localhost:", "bad port"),
        (":", "bad port"),
        (":http", "bad port"),
        (":-1", "bad port"),
        (":65536", "bad port"),
        (":" + "9" * 60, "bad port"),
        (":\u0664\u0660", "bad port"),
        (":4040 ", "bad port"),
        (" :4040", "bad host"),
        ("a b:4040", "bad host"),
        ("a\0:4040", "bad host"),
        ("\udcff:4040", "bad host"),
        ("-a:4040", "bad host"),
        ("256.0.0.1:4040", "bad IP address"),
        ("1.2.3:4040", "bad IP address"),
    ],
)
def test_bad_addresses(text: str, reason: str) -> None:
    """Each is refused in one line with the reason and the forms that are accepted."""
    expected = f"={text!r}: {reason} (accepted: {ADDRESS})"
    assert str(refusal(["--election=e", "--http", text], {})) == f"--http{expected}"
    assert str(refusal(["--election=e"], {"ELECTION_HTTP": text})) == f"$ELECTION_HTTP{expected}"


def test_times_follow_the_ttl() -> None:
    """Renew deadline 2/3 and retry period 1/4 of the ttl, lease rounded up, one request half of the difference."""
    loaded = load("--ttl=1500ms")
    assert (loaded.renew_deadline, loaded.retry_period, loaded.lease_seconds) == (1.0, 0.375, 2)
    assert loaded.request_timeout == 0.3125


@pytest.mark.parametrize(("ttl", "lease"), [("1s", 1), ("1.000000001s", 2), ("10s", 10), ("10.5s", 11), ("24h", 86400)])
def test_the_lease_is_whole_seconds_rounded_up(ttl: str, lease: int) -> None:
    """Nobody takes over before the ttl that was asked for has passed."""
    assert load(f"--ttl={ttl}").lease_seconds == lease


@given(st.floats(min_value=1, max_value=86400))
def test_the_defaults_of_every_ttl_keep_the_rule_of_times(ttl: float) -> None:
    """For every ttl that is accepted, retry < renew deadline < lease and a request has its least time."""
    loaded = load(f"--ttl={ttl:.9f}s")
    assert loaded.retry_period < loaded.renew_deadline < loaded.ttl <= loaded.lease_seconds
    assert loaded.request_timeout >= settings.MIN_REQUEST_TIMEOUT
    assert loaded.retry_period + 2 * loaded.request_timeout <= loaded.renew_deadline + 1e-8


def test_the_least_room_for_a_request_is_accepted() -> None:
    """A renew deadline exactly 100 ms after the retry period passes, floating point notwithstanding."""
    assert load("--renew-deadline=500ms", "--retry-period=400ms").request_timeout == 0.05


ROOM = "so that one slow request cannot eat it"
REFUSED = [
    ([], {}, "no election: name it with --election=<name> or $ELECTION_NAME"),
    (["--election="], {"ELECTION_NAME": "e"}, "no election: name it with --election=<name> or $ELECTION_NAME"),
    ([], {"ELECTION_NAME": ""}, "no election: name it with --election=<name> or $ELECTION_NAME"),
    (["--election=E"], {}, f"--election='E': not a name that an object can have (accepted: {SUBDOMAIN})"),
    (["-election", "a_b"], {}, f"-election='a_b': not a name that an object can have (accepted: {SUBDOMAIN})"),
    ([], {"ELECTION_NAME": "-a"}, f"$ELECTION_NAME='-a': not a name that an object can have (accepted: {SUBDOMAIN})"),
    (["--election=a..b"], {}, f"--election='a..b': not a name that an object can have (accepted: {SUBDOMAIN})"),
    (["--election=a\n"], {}, f"--election='a\\n': not a name that an object can have (accepted: {SUBDOMAIN})"),
    (
        ["--election", "a" * 254],
        {},
        f"--election='{'a' * 64}...': not a name that an object can have (accepted: {SUBDOMAIN})",
    ),
    (
        ["--election=e", "--election-namespace=a.b"],
        {},
        f"--election-namespace='a.b': not a name that a namespace can have (accepted: {LABEL})",
    ),
    (
        ["--election=e", "--election-namespace="],
        {},
        f"--election-namespace='': not a name that a namespace can have (accepted: {LABEL})",
    ),
    (
        ["--election=e"],
        {"ELECTION_NAMESPACE": "a" * 64},
        f"$ELECTION_NAMESPACE='{'a' * 64}': not a name that a namespace can have (accepted: {LABEL})",
    ),
    (["--election=e", "--id="], {}, f"--id='': empty (accepted: {PRINTABLE})"),
    (
        ["--election=e", "--id", " "],
        {},
        f"--id=' ': has control characters, invalid bytes or surrounding white space (accepted: {PRINTABLE})",
    ),
    (
        ["--election=e"],
        {"ELECTION_ID": "a\n"},
        (
            f"$ELECTION_ID='a\\n': has control characters, invalid bytes or surrounding white space"
            f" (accepted: {PRINTABLE})"
        ),
    ),
    (
        ["--election=e"],
        {"POD_NAME": "a\udcffb"},
        (
            f"$POD_NAME='a\\udcffb': has control characters, invalid bytes or surrounding white space"
            f" (accepted: {PRINTABLE})"
        ),
    ),
    (["--election=e", "--id", "x" * 254], {}, f"--id='{'x' * 64}...': too long (accepted: {PRINTABLE})"),
    (
        ["--election=e", "--id=$(POD_NAME)"],
        {},
        (
            "--id='$(POD_NAME)': a reference that Kubernetes did not expand, because the container has no such variable"
            f" (accepted: {PRINTABLE})"
        ),
    ),
    (
        ["--election=e"],
        {"NODE_NAME": "\0"},
        f"$NODE_NAME='\\x00': has control characters, invalid bytes or surrounding white space (accepted: {PRINTABLE})",
    ),
    (["--election=e"], {"POD_UID": "u" * 300}, f"$POD_UID='{'u' * 64}...': too long (accepted: {PRINTABLE})"),
    (
        ["--election=e", "--ttl=10"],
        {},
        "--ttl='10': missing unit in duration '10' (accepted: a duration from 1s to 24h, such as 10s or 1m30s)",
    ),
    (
        ["--election=e", "--ttl="],
        {},
        "--ttl='': invalid duration '' (accepted: a duration from 1s to 24h, such as 10s or 1m30s)",
    ),
    (
        ["--election=e"],
        {"ELECTION_TTL": "1d"},
        (
            "$ELECTION_TTL='1d': unknown unit 'd' in duration '1d'"
            " (accepted: a duration from 1s to 24h, such as 10s or 1m30s)"
        ),
    ),
    (
        ["--election=e", "--ttl=999ms"],
        {},
        "--ttl='999ms': out of range (accepted: a duration from 1s to 24h, such as 10s or 1m30s)",
    ),
    (
        ["--election=e", "--ttl=24h1ns"],
        {},
        "--ttl='24h1ns': out of range (accepted: a duration from 1s to 24h, such as 10s or 1m30s)",
    ),
    (
        ["--election=e", "--ttl=-10s"],
        {},
        "--ttl='-10s': out of range (accepted: a duration from 1s to 24h, such as 10s or 1m30s)",
    ),
    (
        ["--election=e", "--renew-deadline=x"],
        {},
        f"--renew-deadline='x': invalid duration 'x' (accepted: {DURATION})",
    ),
    (["--election=e", "--renew-deadline=10s"], {}, "--renew-deadline='10s': must be shorter than the ttl, 10s"),
    (
        ["--election=e", "--ttl=1m30s"],
        {"ELECTION_RENEW_DEADLINE": "2m"},
        "$ELECTION_RENEW_DEADLINE='2m': must be shorter than the ttl, 1m30s",
    ),
    (
        ["--election=e", "--renew-deadline=2s"],
        {},
        f"--renew-deadline='2s': must be at least 100ms longer than the retry period, 2.5s, {ROOM}",
    ),
    (
        ["--election=e", "--retry-period=7s"],
        {},
        f"--retry-period='7s': must be at least 100ms shorter than the renew deadline, 6.666666667s, {ROOM}",
    ),
    (
        ["--election=e", "--renew-deadline=3s"],
        {"ELECTION_RETRY_PERIOD": "2901ms"},
        f"$ELECTION_RETRY_PERIOD='2901ms': must be at least 100ms shorter than the renew deadline, 3s, {ROOM}",
    ),
    (
        ["--election=e", "--retry-period=0"],
        {},
        f"--retry-period='0': too short (accepted: {DURATION}, at least 100ms)",
    ),
    (
        ["--election=e", "--retry-period=0.1"],
        {},
        f"--retry-period='0.1': missing unit in duration '0.1' (accepted: {DURATION}, at least 100ms)",
    ),
    (
        ["--election=e", "--use-cluster-credentials=yes"],
        {},
        f"--use-cluster-credentials='yes': not a boolean (accepted: {BOOLEANS})",
    ),
    (
        ["--election=e", "--use-cluster-credentials="],
        {},
        f"--use-cluster-credentials='': not a boolean (accepted: {BOOLEANS})",
    ),
    (
        ["--election=e"],
        {"ELECTION_USE_CLUSTER_CREDENTIALS": "on"},
        f"$ELECTION_USE_CLUSTER_CREDENTIALS='on': not a boolean (accepted: {BOOLEANS})",
    ),
    (
        ["--election=e"],
        {"KUBECONFIG": "a\0b"},
        "$KUBECONFIG='a\\x00b': has a NUL character (accepted: the path of a file)",
    ),
    (["--election=e", "--log-format=xml"], {}, "--log-format='xml': unknown format (accepted: json, console)"),
    (
        ["--election=e"],
        {"ELECTION_LOG_LEVEL": "trace"},
        "$ELECTION_LOG_LEVEL='trace': unknown level (accepted: debug, info, warning, error)",
    ),
    *(
        (["--election=e"], {variable: text}, f"${variable}={text!r}: {reason}")
        for variable, text, reason in (
            ("ELECTION_BALANCE", "on", "unknown mode (accepted: auto, off)"),
            ("ELECTION_BALANCE", "false", "unknown mode (accepted: auto, off)"),
            ("ELECTION_BALANCE", "Auto", "unknown mode (accepted: auto, off)"),
            ("ELECTION_REBALANCE", "off", "unknown mode (accepted: auto, never)"),
            ("ELECTION_GROUP", "a/b", f"not a value that a label can have (accepted: {LABEL_VALUE})"),
            ("ELECTION_GROUP", "a,b", f"not a value that a label can have (accepted: {LABEL_VALUE})"),
            ("ELECTION_GROUP", "-a", f"not a value that a label can have (accepted: {LABEL_VALUE})"),
            ("ELECTION_GROUP", "a\n", f"not a value that a label can have (accepted: {LABEL_VALUE})"),
            ("ELECTION_GROUP", "g" * 64, f"not a value that a label can have (accepted: {LABEL_VALUE})"),
            (
                "ELECTION_GROUP",
                "$(GROUP)",
                (
                    "a reference that Kubernetes did not expand, because the container has no such variable"
                    f" (accepted: {LABEL_VALUE})"
                ),
            ),
            ("ELECTION_BALANCE_SCOPE", "all", "unknown scope (accepted: namespace, cluster)"),
            ("ELECTION_BALANCE_SLOT", "9.999ms", f"out of range (accepted: {SLOT})"),
            ("ELECTION_BALANCE_SLOT", "10.001s", f"out of range (accepted: {SLOT})"),
            ("ELECTION_BALANCE_SLOT", "-1s", f"out of range (accepted: {SLOT})"),
            ("ELECTION_LOCK", "configmaps", "unknown lock (accepted: endpoints, leases, endpointsleases)"),
            ("ELECTION_RELEASE_DELAY", "2h", "too long (accepted: a duration of at most 1h0m0s, such as 10s)"),
            ("ELECTION_HEALTH_URL", "localhost:8080", f"not a URL of that kind (accepted: {HEALTH_URL})"),
            ("ELECTION_HEALTH_URL", "http://", f"not a URL of that kind (accepted: {HEALTH_URL})"),
            ("ELECTION_HEALTH_URL", "http://[::1/", f"Invalid IPv6 URL (accepted: {HEALTH_URL})"),
            ("ELECTION_HEALTH_URL", "http://x:99999/", f"Port out of range 0-65535 (accepted: {HEALTH_URL})"),
            ("ELECTION_HEALTH_INTERVAL", "0s", "out of range (accepted: a duration from 100ms to 1h0m0s)"),
            ("ELECTION_HEALTH_FAILURES", "0", "not a threshold (accepted: a whole number from 1 to 999)"),
            ("ELECTION_HEALTH_SUCCESSES", "1000", "not a threshold (accepted: a whole number from 1 to 999)"),
            ("ELECTION_POD_LABEL", "leader", f"not a value that a label can have (accepted: {POD_LABEL})"),
            ("ELECTION_POD_LABEL", "role=", f"not a value that a label can have (accepted: {POD_LABEL})"),
            ("ELECTION_POD_LABEL", "=leader", f"not a key that a label can have (accepted: {POD_LABEL})"),
            ("ELECTION_POD_LABEL", "Ex ample/role=x", f"not a prefix that a label can have (accepted: {POD_LABEL})"),
            ("ELECTION_WEIGHT", "0", f"not a weight (accepted: {WEIGHT})"),
            ("ELECTION_WEIGHT", "-1", f"not a weight (accepted: {WEIGHT})"),
            ("ELECTION_WEIGHT", "1001", f"not a weight (accepted: {WEIGHT})"),
            ("ELECTION_WEIGHT", "9999999999", f"not a weight (accepted: {WEIGHT})"),
            ("ELECTION_WEIGHT", "heavy", f"not a weight (accepted: {WEIGHT})"),
            ("ELECTION_WEIGHT", "1.5", f"not a weight (accepted: {WEIGHT})"),
            ("ELECTION_WEIGHT", "\u0663", f"not a weight (accepted: {WEIGHT})"),
        )
    ),
    (["--election=e", "-v=much"], {}, "-v='much': not a number (accepted: a whole number such as 2)"),
    (
        ["--election=e", "--v", "9" * 5000],
        {},
        f"--v='{'9' * 64}...': not a number (accepted: a whole number such as 2)",
    ),
    (["--election=e", "--ttl"], {}, "--ttl needs a value: --ttl=<duration>"),
    (["--election=e", "-vmodule"], {}, "-vmodule needs a value: -vmodule=<patterns>"),
]


@pytest.mark.parametrize(("argv", "environ", "message"), REFUSED)
def test_a_bad_value_is_one_line_and_exit_2(argv: list[str], environ: dict[str, str], message: str) -> None:
    """The line names the flag or variable that the value came from, the value, and what is accepted."""
    refused = refusal(argv, environ)
    assert str(refused) == message
    assert refused.exit_code == 2
    assert refused.usage == ""


def test_a_host_name_that_is_no_identity_is_refused() -> None:
    """Where the host name would be the identity it must be one, and the line says that it came from there."""
    assert str(refusal(["--election=e"], {}, "")) == f"host name='': empty (accepted: {PRINTABLE})"
    assert settings.load(["--election=e", "--id=x"], {}, "").identity == "x"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--tll=3s", "unknown flag '--tll'; did you mean --ttl?"),
        ("-leader-elect", "unknown flag '-leader-elect'"),
        ("---ttl=3s", "unknown flag '---ttl'; did you mean --ttl?"),
        ("--=x", "unknown flag '--'"),
        ("-=x", "unknown flag '-'"),
        ("--elect=x", "unknown flag '--elect'; did you mean --election?"),
        ("--namespace=x", "unknown flag '--namespace'; did you mean --election-namespace?"),
        ("--election_namespace=x", "unknown flag '--election_namespace'; did you mean --election-namespace?"),
        ("--TTL=3s", "unknown flag '--TTL'"),
        ("--\udcff\0", "unknown flag '--\\udcff\\x00'"),
        ("--" + "z" * 1000, f"unknown flag '--{'z' * 62}...'"),
    ],
)
def test_an_unknown_flag_prints_usage_and_exits_2(argument: str, message: str) -> None:
    """No abbreviations, no third dash, no other spelling: one line with the nearest name, usage and exit code 2."""
    refused = refusal(["--election=e", argument], {})
    assert (str(refused), refused.exit_code, refused.usage) == (message, 2, settings.usage())


@pytest.mark.parametrize("flag", ["--help", "-help", "-h", "--h"])
def test_help(flag: str) -> None:
    """Help is given whatever else is missing or wrong behind it."""
    with pytest.raises(HelpRequested):
        settings.load([flag, "--unknown"], {}, "machine")


BOOLEANS_WITHOUT_EFFECT = [
    "logtostderr",
    "alsologtostderr",
    "add_dir_header",
    "skip_headers",
    "skip_log_headers",
    "one_output",
]
VALUES_WITHOUT_EFFECT = [
    "stderrthreshold",
    "vmodule",
    "log_backtrace_at",
    "log_dir",
    "log_file",
    "log_file_max_size",
]


@pytest.mark.parametrize("name", BOOLEANS_WITHOUT_EFFECT)
def test_booleans_without_effect(name: str) -> None:
    """Booleans of glog and klog change nothing, take `=bool` and never the next argument, in either spelling."""
    for flag in (f"--{name}", f"-{name}", f"--{name}=true", f"--{name}=false", f"--{name.replace('_', '-')}"):
        assert load(flag, "--id=x") == load("--id=x")


@pytest.mark.parametrize("name", VALUES_WITHOUT_EFFECT)
def test_flags_with_a_value_without_effect(name: str) -> None:
    """They change nothing and take their value in every form and in either spelling."""
    for flag in (f"--{name}", f"-{name}", f"--{name.replace('_', '-')}"):
        assert load(f"{flag}=:8080", "--id=x") == load("--id=x")
        assert load(flag, "--id=y", "--id=x") == load("--id=x")


@pytest.mark.parametrize(
    ("argv", "environ", "level"),
    [
        (["-v=1"], {}, "info"),
        (["-v=2"], {}, "debug"),
        (["-v", "4"], {}, "debug"),
        (["--v=10"], {}, "debug"),
        (["-v=-1"], {}, "info"),
        (["-v=4", "--log-level=warning"], {}, "warning"),
        (["-v=4"], {"ELECTION_LOG_LEVEL": "error"}, "error"),
        (["-v=4"], {"ELECTION_LOG_LEVEL": ""}, "debug"),
    ],
)
def test_verbosity(argv: list[str], environ: dict[str, str], level: str) -> None:
    """-v of 2 or more is the debug level unless a level was given."""
    assert load(*argv, **environ).log_level == level


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("ELECTION_TLL", "unknown variable 'ELECTION_TLL' has no effect; did you mean ELECTION_TTL?"),
        (
            "ELECTION_NAMESPACES",
            "unknown variable 'ELECTION_NAMESPACES' has no effect; did you mean ELECTION_NAMESPACE?",
        ),
        ("ELECTION_", "unknown variable 'ELECTION_' has no effect; did you mean ELECTION_ID?"),
        ("ELECTION_PORTS", "unknown variable 'ELECTION_PORTS' has no effect; did you mean ELECTION_TTL?"),
        (
            "ELECTION_\udcff\n" + "z" * 100,
            f"unknown variable 'ELECTION_\\udcff\\n{'z' * 53}...' has no effect; --help lists what there is",
        ),
    ],
)
def test_an_unknown_variable_is_a_warning_with_the_nearest_name(name: str, warning: str) -> None:
    """One line each, and nothing else changes."""
    assert load(**{name: "x"}).warnings == (warning,)


@pytest.mark.parametrize(
    "name",
    [
        "ELECTION_SERVICE_HOST",
        "ELECTION_SERVICE_PORT",
        "ELECTION_SERVICE_PORT_HTTP",
        "ELECTION_PORT",
        "ELECTION_PORT_4040_TCP",
        "ELECTION_PORT_4040_TCP_PROTO",
        "ELECTION_PORT_4040_TCP_PORT",
        "ELECTION_PORT_4040_TCP_ADDR",
        "ELECTION_PORT_53_UDP_ADDR",
        "ELECTION_PORT_53_SCTP",
        "ELECTION_FOO_SERVICE_HOST",
        "ELECTION_FOO_BAR_SERVICE_PORT",
        "ELECTION_FOO_PORT",
        "ELECTION_FOO_PORT_8080_TCP_ADDR",
        "ELECTION_NAME",
        "OTHER",
        "election_ttl",
        "ELECTIONS_TTL",
    ],
)
def test_known_and_injected_variables_are_silent(name: str) -> None:
    """What Kubernetes injects for a Service named election or election-foo is nobody's mistake."""
    assert load(**{name: "x"}).warnings == ()


def test_warnings_are_sorted() -> None:
    """The order does not depend on the environment's."""
    assert [line.split("'")[1] for line in load(ELECTION_Z="", ELECTION_A="").warnings] == ["ELECTION_A", "ELECTION_Z"]


def test_usage_names_every_flag_with_its_variable_and_default() -> None:
    """Each flag stands in the help as `--flag <value>, $VARIABLE`, with its default, in lines that fit a terminal."""
    text = settings.usage()
    assert "\n--ttl <duration>, $ELECTION_TTL\n    " in text
    assert "\n--use-cluster-credentials[=<bool>], $ELECTION_USE_CLUSTER_CREDENTIALS\n    " in text
    assert "\n$POD_UID\n    " in text
    assert "Default: 10s." in text
    flowing = " ".join(text.split())
    for option in settings.TABLE:
        assert option.help.replace("`", "") in flowing
        assert not option.default or f"Default: {option.default}." in flowing
        assert not option.variable or f"${option.variable}\n" in text
    for name in (*BOOLEANS_WITHOUT_EFFECT, *VALUES_WITHOUT_EFFECT):
        assert f"--{name}" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert text.endswith(".\n")


def test_the_documentation_is_the_table() -> None:
    """docs/configuration.md is what `python -m sidecar.settings` prints."""
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == settings.documentation()


def test_the_readme_has_the_table() -> None:
    """The block between the markers in README.md is what `python -m sidecar.settings` prints."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count(README_BEGIN) == 1
    assert readme.split(README_BEGIN)[1].split(README_END)[0] == settings.documentation()


TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
FLAGS = st.sampled_from([*settings._BY_FLAG, "help", "nothing"])
ARGUMENT = TEXT | st.builds("{}{}{}{}".format, st.sampled_from(["-", "--"]), FLAGS, st.sampled_from(["", "="]), TEXT)
VARIABLE = (
    st.sampled_from([option.variable for option in settings.TABLE]) | st.builds("ELECTION_{}".format, TEXT) | TEXT
)


@given(st.lists(ARGUMENT, max_size=8), st.dictionaries(VARIABLE, TEXT, max_size=8), TEXT)
def test_any_input_gives_settings_or_one_line(argv: list[str], environ: dict[str, str], hostname: str) -> None:
    """Whatever stands on the command line and in the environment: settings, help, or one short printable line."""
    lines: tuple[str, ...]
    try:
        lines = settings.load(["--election=e", *argv], environ, hostname).warnings
    except HelpRequested:
        lines = ()
    except UsageError as refused:
        lines = (str(refused),)
    for line in lines:
        assert line.isprintable()
        assert len(line) < 600


def test_enormous_values_are_refused_in_one_short_line() -> None:
    """Megabytes on the command line or in a variable cost neither a traceback nor a long line."""
    enormous = "9" * 2_000_000
    for option in settings.TABLE:
        if option == settings.KUBECONFIG:
            continue  # any path may be tried
        if option.flag and option.placeholder:
            assert len(str(refusal(["--election=e", f"--{option.flag}={enormous}"], {}))) < 300
        elif option.variable:
            assert len(str(refusal(["--election=e"], {option.variable: enormous}))) < 300
    assert len(str(refusal(["--election=e", f"--{enormous}"], {}))) < 300
    assert len(load(**{f"ELECTION_{enormous}": ""}).warnings[0]) < 300
