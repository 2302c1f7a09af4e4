"""Every flag and variable of leader-elector, declared once: parsing, validation, help and documentation follow it.

The names, defaults and forms are those of the stock image `gcr.io/google_containers/leader-elector:0.5` and of its
forks, so that a command line written for them works unchanged. `python -m sidecar.settings` prints the documentation
of the table.
"""

import difflib
import ipaddress
import math
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit

from sidecar import duration
from sidecar.record import HEAVIEST

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MIN_TTL = 1.0  # seconds; the lease is written in whole seconds, at least one
MAX_TTL = 24 * 3600.0
MIN_RETRY_PERIOD = 0.1  # seconds; bounds how fast a misconfigured candidate sends requests
MIN_REQUEST_TIMEOUT = 0.05  # seconds; less, and a slow but healthy API server fails every renewal
DEBUG_VERBOSITY = 2  # the -v of glog and klog from which a user asks for more than the normal log
MAX_REQUEST_TIMEOUT = 10.0  # seconds; with a long lease there is no need to wait long for one answer
MAX_NAME = 253  # characters of a DNS subdomain, as Kubernetes limits object names
MAX_LABEL = 63  # characters of a DNS label, and of a label's value
MIN_SLOT = 0.01  # seconds; a shorter one is lost in the time that a request takes
MAX_SLOT = 10.0  # seconds; a longer one keeps a vacancy open for minutes
MAX_RELEASE_DELAY = 3600.0  # seconds; whoever waits for it has nobody that leads
MIN_HEALTH_INTERVAL = 0.1  # seconds; the main container has other work as well
MAX_HEALTH_INTERVAL = 3600.0
MAX_PORT = 65535
LOCKS = ("endpoints", "leases", "endpointsleases")
_SHOWN = 64  # characters of a value that an error or a warning repeats

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_HOST = re.compile(r"[A-Za-z0-9_]([-A-Za-z0-9_.]*[A-Za-z0-9_.])?")
_IPV4_LIKE = re.compile(r"[0-9.]+")
_IPV6_IN_BRACKETS = re.compile(r"\[([0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]{1,15})?)\]")
_PORT = re.compile(r"[0-9]{1,5}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")
_THRESHOLD = re.compile(r"[0-9]{1,3}")
_WEIGHT = re.compile(r"[0-9]{1,4}")
_REFERENCE = re.compile(r"\$\(.*\)", re.DOTALL)


class HelpRequested(Exception):  # noqa: N818 - it is no error
    """The command line asks for help: print `usage()` and exit 0."""


class UsageError(Exception):
    """The program cannot start as it was called; the text is one line that says what was wrong and what to do.

    `exit_code` is the code to exit with. `usage` is the help text to print with the line, or empty.
    """

    def __init__(self, message: str, exit_code: int = 2, usage: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.usage = usage


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. `host` None is every interface, IPv4 and IPv6; port 0 is any free port."""

    host: str | None
    port: int

    def __str__(self) -> str:
        """Return the form in which the address is written on the command line."""
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one candidate was told. Times are in seconds; `retry_period < renew_deadline < ttl` holds.

    `http` None is no server; the other addresses None are no further servers. `balance_scope` is "namespace" or
    "cluster", `lock` "endpoints", "leases" or "endpointsleases". `pod_name`, `pod_uid` and `node_name` are empty when
    unknown, and so is `health_url` when nobody is asked. `pod_label` is a key and a value, None for no label.
    `warnings` has one line for each variable that was not understood.
    """

    election: str
    identity: str
    namespace: str
    ttl: float
    renew_deadline: float
    retry_period: float
    http: Address | None
    use_cluster_credentials: bool
    kubeconfig: str | None
    log_format: str
    log_level: str
    balance: bool
    rebalance: bool
    group: str
    balance_scope: str
    balance_slot: float
    weight: int
    lock: str
    release_on_exit: bool
    release_delay: float
    health_url: str
    health_interval: float
    health_failures: int
    health_successes: int
    pod_label: tuple[str, str] | None
    probe_address: Address | None
    metrics_address: Address | None
    pod_name: str
    pod_namespace: str
    pod_uid: str
    node_name: str
    warnings: tuple[str, ...] = ()

    @property
    def lease_seconds(self) -> int:
        """The lease duration on the wire: the ttl in whole seconds, rounded up so that it is never shorter."""
        return max(1, math.ceil(self.ttl))

    @property
    def request_timeout(self) -> float:
        """Seconds that one request may take, so that a second one still fits in before the renew deadline."""
        return min(round((self.renew_deadline - self.retry_period) / 2, 9), MAX_REQUEST_TIMEOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option(Generic[T_co]):
    """One row of the table: a flag, its variable, or both.

    `parse` returns the value of a text or raises ValueError with the reason; `accepted` completes that error.
    `default` is the text that is parsed when nothing was given, or, where another value decides, says which.
    """

    flag: str = ""
    variable: str = ""
    placeholder: str = ""  # of the value, in the help; a flag without one is a boolean
    parse: Callable[[str], T_co]
    accepted: str = ""
    default: str = ""
    empty_variable_counts: bool = False  # manifests often have empty variables: elsewhere they are not set
    help: str = ""


def _election(text: str) -> str:
    if len(text) > MAX_NAME or not _SUBDOMAIN.fullmatch(text):
        raise ValueError("not a name that an object can have")
    return text


def _namespace(text: str) -> str:
    _require_expanded(text)
    if len(text) > MAX_LABEL or not _LABEL.fullmatch(text):
        raise ValueError("not a name that a namespace can have")
    return text


def _require_expanded(text: str) -> None:
    # As an identity, every replica would have the same one, and take the others' leadership for its own.
    if _REFERENCE.fullmatch(text):
        raise ValueError("a reference that Kubernetes did not expand, because the container has no such variable")


def _name(text: str) -> str:
    _require_expanded(text)
    if not 1 <= len(text) <= MAX_NAME:
        raise ValueError("empty" if not text else "too long")
    if not text.isprintable() or text != text.strip():
        raise ValueError("has control characters, invalid bytes or surrounding white space")
    return text


def _ttl(text: str) -> float:
    seconds = duration.parse(text)
    if not MIN_TTL <= seconds <= MAX_TTL:
        raise ValueError("out of range")
    return seconds


def _retry_period(text: str) -> float:
    seconds = duration.parse(text)
    if seconds < MIN_RETRY_PERIOD:
        raise ValueError("too short")
    return seconds


def _address(text: str) -> Address | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if ":" not in text or text.endswith("]"):
        raise ValueError("no port")
    if not _PORT.fullmatch(port) or int(port) > MAX_PORT:
        raise ValueError("bad port")
    return Address(_host(host) if host else None, int(port))


def _host(text: str) -> str:
    bracketed = _IPV6_IN_BRACKETS.fullmatch(text)
    if bracketed:
        return _ip_address(bracketed[1])
    if ":" in text:
        raise ValueError("bad IPv6 address, or one without brackets")
    if len(text) > MAX_NAME or not _HOST.fullmatch(text):
        raise ValueError("bad host")
    return _ip_address(text) if _IPV4_LIKE.fullmatch(text) else text


def _ip_address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("bad IP address") from None
    return text


def _boolean(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError("not a boolean")


def _path(text: str) -> str | None:
    if "\0" in text:
        raise ValueError("has a NUL character")
    return text or None


def _balance(text: str) -> bool:
    if text not in ("auto", "off"):
        raise ValueError("unknown mode")
    return text == "auto"


def _rebalance(text: str) -> bool:
    if text not in ("auto", "never"):
        raise ValueError("unknown mode")
    return text == "auto"


def _group(text: str) -> str:
    _require_expanded(text)
    if len(text) > MAX_LABEL or not _LABEL_VALUE.fullmatch(text):
        raise ValueError("not a value that a label can have")
    return text


def _scope(text: str) -> str:
    if text not in ("namespace", "cluster"):
        raise ValueError("unknown scope")
    return text


def _slot(text: str) -> float:
    seconds = duration.parse(text)
    if not MIN_SLOT <= seconds <= MAX_SLOT:
        raise ValueError("out of range")
    return seconds


def _weight(text: str) -> int:
    if not _WEIGHT.fullmatch(text) or not 1 <= int(text) <= HEAVIEST:
        raise ValueError("not a weight")
    return int(text)


def _lock(text: str) -> str:
    if text not in LOCKS:
        raise ValueError("unknown lock")
    return text


def _release_delay(text: str) -> float:
    seconds = duration.parse(text)
    if seconds > MAX_RELEASE_DELAY:
        raise ValueError("too long")
    return seconds


def _health_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable() or " " in text:
        raise ValueError("not a URL of that kind")
    _ = parts.port  # raises ValueError for one that is none
    return text


def _health_interval(text: str) -> float:
    seconds = duration.parse(text)
    if not MIN_HEALTH_INTERVAL <= seconds <= MAX_HEALTH_INTERVAL:
        raise ValueError("out of range")
    return seconds


def _threshold(text: str) -> int:
    if not _THRESHOLD.fullmatch(text) or int(text) == 0:
        raise ValueError("not a threshold")
    return int(text)


def _pod_label(text: str) -> tuple[str, str]:
    _require_expanded(text)
    key, equals, value = text.partition("=")
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > MAX_NAME or not _SUBDOMAIN.fullmatch(prefix)):
        raise ValueError("not a prefix that a label can have")
    if len(name) > MAX_LABEL or not _LABEL_VALUE.fullmatch(name):
        raise ValueError("not a key that a label can have")
    if not equals or len(value) > MAX_LABEL or not _LABEL_VALUE.fullmatch(value):
        raise ValueError("not a value that a label can have")
    return key, value


def _log_format(text: str) -> str:
    if text not in ("json", "console"):
        raise ValueError("unknown format")
    return text


def _log_level(text: str) -> str:
    if text not in ("debug", "info", "warning", "error"):
        raise ValueError("unknown level")
    return text


def _verbosity(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError("not a number")
    return int(text)


_MARGIN = duration.render(2 * MIN_REQUEST_TIMEOUT)
_DURATION = "a duration such as 2.5s, 500ms or 1m30s"
_NAME = f"1 to {MAX_NAME} printable characters"
_BOOLEAN = "true, false, t, f, 1, 0"

ELECTION = Option(
    flag="election",
    variable="ELECTION_NAME",
    placeholder="name",
    parse=_election,
    accepted=f"lower-case letters, digits, '-' and '.', at most {MAX_NAME}, with a letter or digit at both ends",
    help="The name of the election, and of the object that the candidates share as their lock. Required.",
)
IDENTITY = Option(
    flag="id",
    variable="ELECTION_ID",
    placeholder="name",
    parse=_name,
    accepted=_NAME,
    default="$POD_NAME, else the host name",
    help="The identity of this candidate, and the name that everybody is told while it leads."
    " It must differ from that of every other candidate.",
)
NAMESPACE = Option(
    flag="election-namespace",
    variable="ELECTION_NAMESPACE",
    placeholder="namespace",
    parse=_namespace,
    accepted=f"lower-case letters, digits and '-', at most {MAX_LABEL}, with a letter or digit at both ends",
    default="default",
    help="The namespace of the lock object.",
)
TTL = Option(
    flag="ttl",
    variable="ELECTION_TTL",
    placeholder="duration",
    parse=_ttl,
    accepted="a duration from 1s to 24h, such as 10s or 1m30s",
    default="10s",
    help="The lease duration: how long the others wait, after the last renewal that they saw, before they take over"
    " from a leader that went away without a word. Written to the lock object in whole seconds, rounded up.",
)
RENEW_DEADLINE = Option(
    flag="renew-deadline",
    variable="ELECTION_RENEW_DEADLINE",
    placeholder="duration",
    parse=duration.parse,
    accepted=_DURATION,
    default="2/3 of the ttl",
    help="How long a leader leads after its last successful renewal. Shorter than the ttl.",
)
RETRY_PERIOD = Option(
    flag="retry-period",
    variable="ELECTION_RETRY_PERIOD",
    placeholder="duration",
    parse=_retry_period,
    accepted=f"{_DURATION}, at least {duration.render(MIN_RETRY_PERIOD)}",
    default="1/4 of the ttl",
    help=f"How often a leader renews. Shorter than the renew deadline by at least {_MARGIN}."
    " One request may take half of the difference, and 10s at most.",
)
HTTP = Option(
    flag="http",
    variable="ELECTION_HTTP",
    placeholder="address",
    parse=_address,
    accepted=":4040, 0.0.0.0:4040, localhost:4040, [::1]:4040, or empty for no server",
    default=":4040",
    empty_variable_counts=True,
    help="Where to answer who leads. Without a host: on all interfaces, IPv4 and IPv6. Empty: no server.",
)
USE_CLUSTER_CREDENTIALS = Option(
    flag="use-cluster-credentials",
    variable="ELECTION_USE_CLUSTER_CREDENTIALS",
    parse=_boolean,
    accepted=_BOOLEAN,
    default="false",
    help="Use the service account of the pod, whatever else is there. Without it: a kubeconfig if there is one,"
    " else the service account.",
)
KUBECONFIG = Option(
    flag="kubeconfig",
    variable="KUBECONFIG",
    placeholder="path",
    parse=_path,
    accepted="the path of a file",
    default="~/.kube/config if it exists",
    help="The kubeconfig file that says where the API server is.",
)
LOG_FORMAT = Option(
    flag="log-format",
    variable="ELECTION_LOG_FORMAT",
    placeholder="format",
    parse=_log_format,
    accepted="json, console",
    default="json",
    help="`json`: one object a line. `console`: lines for people. Logs go to standard error.",
)
LOG_LEVEL = Option(
    flag="log-level",
    variable="ELECTION_LOG_LEVEL",
    placeholder="level",
    parse=_log_level,
    accepted="debug, info, warning, error",
    default="info",
    help="The least level that is logged: `debug`, `info`, `warning` or `error`.",
)
VERBOSITY = Option(
    flag="v",
    placeholder="number",
    parse=_verbosity,
    accepted="a whole number such as 2",
    default="0",
    help=f"The verbosity of glog and klog: {DEBUG_VERBOSITY} or more is log level `debug`, unless a level was given.",
)
BALANCE = Option(
    variable="ELECTION_BALANCE",
    parse=_balance,
    accepted="auto, off",
    default="auto",
    help="`auto`: spread the leaders of a group evenly over the nodes. `off`: elect as the stock image does.",
)
REBALANCE = Option(
    variable="ELECTION_REBALANCE",
    parse=_rebalance,
    accepted="auto, never",
    default="auto",
    help="`auto`: a leader hands over to a candidate on a node with fewer leaders. `never`: leaders stay where they"
    " are, and only a new one is chosen by its node.",
)
GROUP = Option(
    variable="ELECTION_GROUP",
    parse=_group,
    accepted=f"letters, digits, '-', '_' and '.', at most {MAX_LABEL}, with a letter or digit at both ends",
    default="default",
    help="The group of the election: the leaders of one group are spread against each other.",
)
BALANCE_SCOPE = Option(
    variable="ELECTION_BALANCE_SCOPE",
    parse=_scope,
    accepted="namespace, cluster",
    default="namespace",
    help="Where the other elections of the group are looked for: in the election's namespace, or in the whole cluster,"
    " which takes a ClusterRole.",
)
BALANCE_SLOT = Option(
    variable="ELECTION_BALANCE_SLOT",
    parse=_slot,
    accepted=f"a duration from {duration.render(MIN_SLOT)} to {duration.render(MAX_SLOT)}, such as 500ms",
    default="500ms",
    help="How much later a candidate bids for each leader that its node has more than the node with the fewest.",
)
WEIGHT = Option(
    variable="ELECTION_WEIGHT",
    parse=_weight,
    accepted=f"a whole number from 1 to {HEAVIEST}",
    default="1",
    help="How many leaders this election's leader counts for.",
)
LOCK = Option(
    variable="ELECTION_LOCK",
    parse=_lock,
    accepted=", ".join(LOCKS),
    default="endpoints",
    help="The kind of the lock object. `endpoints`: as the stock image. `leases`: as client-go today."
    " `endpointsleases`: both, for the time in which a fleet goes from one to the other.",
)
RELEASE_ON_EXIT = Option(
    variable="ELECTION_RELEASE_ON_EXIT",
    parse=_boolean,
    accepted=_BOOLEAN,
    default="true",
    help="Release the lock when the process is told to end, so that another candidate leads at once. `false`: the"
    " others wait for the lease to run out.",
)
RELEASE_DELAY = Option(
    variable="ELECTION_RELEASE_DELAY",
    parse=_release_delay,
    accepted=f"a duration of at most {duration.render(MAX_RELEASE_DELAY)}, such as 10s",
    default="0s",
    help="How long the lock is kept after the order to end until it is released, for main containers that end later"
    " than the sidecar. Nobody leads meanwhile. The pod's grace period must be longer.",
)
HEALTH_URL = Option(
    variable="ELECTION_HEALTH_URL",
    parse=_health_url,
    accepted="an http:// or https:// URL such as http://localhost:8080/healthz",
    help="Where to ask whether the main container is healthy; any answer from 200 to 399 says so. While it is not, this"
    " candidate does not lead. Empty: nobody is asked.",
)
HEALTH_INTERVAL = Option(
    variable="ELECTION_HEALTH_INTERVAL",
    parse=_health_interval,
    accepted=f"a duration from {duration.render(MIN_HEALTH_INTERVAL)} to {duration.render(MAX_HEALTH_INTERVAL)}",
    default="2s",
    help="How often to ask, and how long to wait for each answer, 10s at most.",
)
HEALTH_FAILURES = Option(
    variable="ELECTION_HEALTH_FAILURES",
    parse=_threshold,
    accepted="a whole number from 1 to 999",
    default="3",
    help="After so many failures in a row the main container counts as unhealthy.",
)
HEALTH_SUCCESSES = Option(
    variable="ELECTION_HEALTH_SUCCESSES",
    parse=_threshold,
    accepted="a whole number from 1 to 999",
    default="1",
    help="After so many good answers in a row it counts as healthy, at first and again.",
)
POD_LABEL = Option(
    variable="ELECTION_POD_LABEL",
    parse=_pod_label,
    accepted="key=value, as labels are written, such as example.com/role=leader",
    help="A label for the leader's pod, so that a Service can select it. Empty: none.",
)
PROBE_ADDRESS = Option(
    flag="probe-address",
    variable="ELECTION_PROBE_ADDRESS",
    placeholder="address",
    parse=_address,
    accepted=":8080, 0.0.0.0:8080, localhost:8080, [::1]:8080, or empty for none",
    help="Another address that answers `/healthz` and `/readyz`, and nothing else: with it the first one can be"
    " `localhost:4040`, and the kubelet still probes.",
)
METRICS_ADDRESS = Option(
    flag="metrics-address",
    variable="ELECTION_METRICS_ADDRESS",
    placeholder="address",
    parse=_address,
    accepted=":9090, 0.0.0.0:9090, localhost:9090, [::1]:9090, or empty for none",
    help="Another address that answers `/metrics`, and nothing else. It may be the same as that of the probes.",
)
POD_NAME = Option(
    variable="POD_NAME",
    parse=_name,
    accepted=_NAME,
    help="The name of the pod, from the downward API: the default identity.",
)
POD_NAMESPACE = Option(
    variable="POD_NAMESPACE",
    parse=_namespace,
    accepted=NAMESPACE.accepted,
    default="the namespace of the lock object",
    help="The namespace of the pod, from the downward API: where it is labelled, and where its events are.",
)
POD_UID = Option(
    variable="POD_UID",
    parse=_name,
    accepted=_NAME,
    help="The UID of the pod, from the downward API: tells this pod from another one with the same name.",
)
NODE_NAME = Option(
    variable="NODE_NAME",
    parse=_name,
    accepted=_NAME,
    help="The name of the node, from the downward API. Leaders are spread only where it is known.",
)
WITHOUT_EFFECT = (
    *(
        Option(flag=flag, parse=str)
        for flag in (
            "logtostderr",
            "alsologtostderr",
            "add_dir_header",
            "skip_headers",
            "skip_log_headers",
            "one_output",
        )
    ),
    *(
        Option(flag=flag, placeholder=placeholder, parse=str)
        for flag, placeholder in (
            ("stderrthreshold", "level"),
            ("vmodule", "patterns"),
            ("log_backtrace_at", "line"),
            ("log_dir", "path"),
            ("log_file", "path"),
            ("log_file_max_size", "number"),
        )
    ),
)
TABLE: tuple[Option[object], ...] = (
    ELECTION,
    IDENTITY,
    NAMESPACE,
    TTL,
    RENEW_DEADLINE,
    RETRY_PERIOD,
    HTTP,
    USE_CLUSTER_CREDENTIALS,
    KUBECONFIG,
    LOG_FORMAT,
    LOG_LEVEL,
    VERBOSITY,
    BALANCE,
    REBALANCE,
    GROUP,
    BALANCE_SCOPE,
    BALANCE_SLOT,
    WEIGHT,
    LOCK,
    RELEASE_ON_EXIT,
    RELEASE_DELAY,
    HEALTH_URL,
    HEALTH_INTERVAL,
    HEALTH_FAILURES,
    HEALTH_SUCCESSES,
    POD_LABEL,
    PROBE_ADDRESS,
    METRICS_ADDRESS,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    NODE_NAME,
)
_HELP_FLAGS = ("h", "help")
_RULES = (
    "A flag wins over its variable. Flags may be written with one dash or two, their values after `=` or as the next"
    " argument; other arguments are ignored. An empty variable counts as not set, except `ELECTION_HTTP`."
    " A duration is written as in Go: `10s`, `1m30s`, `2.5s`, `250ms`."
)
_WITHOUT_EFFECT_INTRO = "Accepted without effect, for command lines written for other images:"

_BY_FLAG = {option.flag: option for option in (*TABLE, *WITHOUT_EFFECT) if option.flag}
_BY_FLAG |= {flag.replace("_", "-"): option for flag, option in _BY_FLAG.items()}  # as the forks with pflag spell it
_VARIABLES = {option.variable for option in TABLE if option.variable}

# What Kubernetes injects for a Service named `election` or `election-...`:
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_INJECTED = re.compile(
    r"ELECTION_([A-Z0-9_]+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


class _Given(NamedTuple):
    """A text and where it came from: `--ttl`, `$ELECTION_TTL`."""

    source: str
    text: str


def load(argv: Sequence[str], environ: Mapping[str, str], hostname: str) -> Settings:
    """Return what the arguments (without the program's name) and the environment say. A flag wins over its variable.

    Raises UsageError, for the first problem found, or HelpRequested. Warnings are in the settings.
    """
    flags = _flags(argv)

    def given(option: Option[object]) -> _Given | None:
        if option.flag in flags:
            return flags[option.flag]
        text = environ.get(option.variable) if option.variable else None
        if text or (text is not None and option.empty_variable_counts):
            return _Given(f"${option.variable}", text)
        return None

    def value(option: Option[T]) -> T:
        found = given(option)
        return option.parse(option.default) if found is None else _parse(option, found)

    def optional(option: Option[T], default: T) -> T:
        found = given(option)
        return default if found is None else _parse(option, found)

    name = given(ELECTION)
    if name is None or not name.text:
        raise UsageError(f"no election: name it with --{ELECTION.flag}=<name> or ${ELECTION.variable}")
    ttl, namespace = value(TTL), value(NAMESPACE)
    settings = Settings(
        election=_parse(ELECTION, name),
        identity=_parse(IDENTITY, given(IDENTITY) or given(POD_NAME) or _Given("host name", hostname)),
        namespace=namespace,
        ttl=ttl,
        renew_deadline=optional(RENEW_DEADLINE, ttl * 2 / 3),
        retry_period=optional(RETRY_PERIOD, ttl / 4),
        http=value(HTTP),
        use_cluster_credentials=value(USE_CLUSTER_CREDENTIALS),
        kubeconfig=optional(KUBECONFIG, None),
        log_format=value(LOG_FORMAT),
        log_level=optional(LOG_LEVEL, "debug" if value(VERBOSITY) >= DEBUG_VERBOSITY else LOG_LEVEL.default),
        balance=value(BALANCE),
        rebalance=value(REBALANCE),
        group=value(GROUP),
        balance_scope=value(BALANCE_SCOPE),
        balance_slot=value(BALANCE_SLOT),
        weight=value(WEIGHT),
        lock=value(LOCK),
        release_on_exit=value(RELEASE_ON_EXIT),
        release_delay=value(RELEASE_DELAY),
        health_url=optional(HEALTH_URL, ""),
        health_interval=value(HEALTH_INTERVAL),
        health_failures=value(HEALTH_FAILURES),
        health_successes=value(HEALTH_SUCCESSES),
        pod_label=optional(POD_LABEL, None),
        probe_address=optional(PROBE_ADDRESS, None),
        metrics_address=optional(METRICS_ADDRESS, None),
        pod_name=optional(POD_NAME, ""),
        pod_namespace=optional(POD_NAMESPACE, namespace),
        pod_uid=optional(POD_UID, ""),
        node_name=optional(NODE_NAME, ""),
        warnings=_warnings(environ),
    )
    _check_times(settings, given(RENEW_DEADLINE), given(RETRY_PERIOD))
    return settings


def _flags(argv: Sequence[str]) -> dict[str, _Given]:
    """Return what was given for each flag, the last one if it was repeated.

    The forms are those that pflag (the stock image) and Go's flag package (its forks) take between them: one dash
    or two, the value after `=` or as the next argument, whatever that begins with. A boolean never takes the next one.
    """
    given: dict[str, _Given] = {}
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--":
            break
        if not argument.startswith("-") or argument == "-":
            continue
        source, equals, text = argument.partition("=")
        flag = source[1:].removeprefix("-")
        if flag in _HELP_FLAGS:
            raise HelpRequested
        option = _BY_FLAG.get(flag)
        if option is None:
            nearest = difflib.get_close_matches(flag, _BY_FLAG, n=1)
            hint = f"; did you mean --{nearest[0]}?" if nearest else ""
            raise UsageError(f"unknown flag {_shown(source)}{hint}", usage=usage())
        if not equals and not option.placeholder:
            text = "true"
        elif not equals:
            following = next(arguments, None)
            if following is None:
                raise UsageError(f"{source} needs a value: {source}=<{option.placeholder}>")
            text = following
        given[option.flag] = _Given(source, text)
    return given


def _parse(option: Option[T], given: _Given) -> T:
    try:
        return option.parse(given.text)
    except ValueError as reason:
        raise UsageError(f"{given.source}={_shown(given.text)}: {reason} (accepted: {option.accepted})") from None


def _check_times(settings: Settings, renew_deadline: _Given | None, retry_period: _Given | None) -> None:
    """Raise UsageError unless `retry_period < renew_deadline < ttl` with room for a request.

    The defaults always hold it, so one of the two was given whenever it does not.
    """

    def refuse(given: _Given, problem: str) -> NoReturn:
        raise UsageError(f"{given.source}={_shown(given.text)}: {problem}")

    if renew_deadline and settings.renew_deadline >= settings.ttl:
        refuse(renew_deadline, f"must be shorter than the ttl, {duration.render(settings.ttl)}")
    if settings.request_timeout >= MIN_REQUEST_TIMEOUT:
        return
    if retry_period:
        limit = f"shorter than the renew deadline, {duration.render(settings.renew_deadline)}"
        refuse(retry_period, f"must be at least {_MARGIN} {limit}, so that one slow request cannot eat it")
    if renew_deadline:
        limit = f"longer than the retry period, {duration.render(settings.retry_period)}"
        refuse(renew_deadline, f"must be at least {_MARGIN} {limit}, so that one slow request cannot eat it")


def _warnings(environ: Mapping[str, str]) -> tuple[str, ...]:
    unknown = sorted(
        name
        for name in environ
        if name.startswith("ELECTION_") and name not in _VARIABLES and not _INJECTED.fullmatch(name)
    )
    warnings = []
    for name in unknown:
        nearest = difflib.get_close_matches(name, sorted(_VARIABLES), n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "--help lists what there is"
        warnings.append(f"unknown variable {_shown(name)} has no effect; {hint}")
    return tuple(warnings)


def _shown(text: str) -> str:
    """Return a value as an error repeats it: on one line, quoted, without control characters, cut short."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _form(option: Option[object]) -> str:
    """Return how a flag is written, such as `--ttl <duration>`."""
    dashes = "-" if len(option.flag) == 1 else "--"
    return f"{dashes}{option.flag} <{option.placeholder}>" if option.placeholder else f"{dashes}{option.flag}[=<bool>]"


def usage() -> str:
    """Return the help text, a line end included."""
    lines = ["Usage: leader-elector --election=<name> [flags]", ""]
    lines += ["Takes part in an election on Kubernetes and answers who leads. A flag wins over its variable."]
    for option in TABLE:
        names = [_form(option)] if option.flag else []
        names += [f"${option.variable}"] if option.variable else []
        text = option.help.replace("`", "")
        if option.default:
            text += f" Default: {option.default}."
        lines += ["", ", ".join(names), *textwrap.wrap(text, 96, initial_indent="    ", subsequent_indent="    ")]
    accepted = f"{_WITHOUT_EFFECT_INTRO} {', '.join(_form(option) for option in WITHOUT_EFFECT)}."
    lines += ["", *textwrap.wrap(accepted, 100, break_on_hyphens=False)]
    lines += ["", "--help, -h", "    Prints this text.", ""]
    return "\n".join(lines)


def documentation() -> str:
    """Return the table in Markdown, a line end included."""

    def row(*cells: str) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    lines = [row("Flag", "Variable", "Default", "Meaning"), row("---", "---", "---", "---")]
    lines += [
        row(
            f"`{_form(option)}`" if option.flag else "",
            f"`{option.variable}`" if option.variable else "",
            option.default,
            option.help,
        )
        for option in TABLE
    ]
    lines += [
        "",
        _RULES,
        "",
        f"{_WITHOUT_EFFECT_INTRO} {', '.join(f'`{_form(option)}`' for option in WITHOUT_EFFECT)}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(documentation())
