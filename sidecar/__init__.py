"""Leader election for pods: a drop-in replacement for the stock Kubernetes leader-elector sidecar.

What leadership means here
--------------------------
At most one candidate of an election answers that it leads, at every instant, provided that

* no candidate's clock runs (lease / renew deadline) times as *fast* as another's: 1.5 times, with the defaults. Their
  readings are never compared, so it does not matter what time they show;
* nobody but candidates writes the lock object. A candidate revokes its leadership when it learns that somebody did;
  until it learns (a watch event, or its next renewal) a record that was emptied, or one that was deleted, damaged or
  shortened before a candidate started that never saw it, can make a second leader;
* two processes with the same identity do not share one POD_UID at one time;
* other electors in the same election keep to client-go's rules, with the same ttl.

docs/safety.md has the argument.

Spreading leaders over nodes takes no part in that. It holds bids back, keeps who took the lock from leading for a
moment, and ends a leadership in favour of a successor; who may lead is decided without it, and it may fail.

What is not promised
--------------------
* An answer is true when it is computed. It may be old when it is read: a process can be stopped between the two. What
  must not be done twice has to be fenced: every term has a fencing token (`/status`), a number that grows with each
  term (unless etcd is restored from a backup), and the store that is written to refuses a smaller one.
* A term's end is noticed by its leader no later than the renew deadline; work that it began before may still be under
  way.
* There may be no leader for up to a lease (and a little more) after a leader died.
* Leaders need not be spread evenly at every instant: each acts on a census of its own, and is put right by a later one.
"""

__version__ = "0.1.0"
"""The project's version. Not read from the package's metadata: what reads that is 2 MiB of a sidecar."""
