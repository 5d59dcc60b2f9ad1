"""What the library numbers, as Python's enumerations: requests, ends of a process, failures. A test compares them
with the header.

They are apart because an enumeration is slow to make: a successor serves before it has any.
"""

import enum


class Request(enum.IntEnum):
    """What a signal, or `Flip.request`, asks for."""

    #: Nothing: the signal is left alone.
    NONE = 0
    #: Replace this process by a new one.
    UPGRADE = 1
    #: Finish and exit.
    STOP = 2
    #: Leave the service but go on: no more upgrades, no listener's path is unlinked, nobody is told.
    DETACH = 3


class Shutdown(enum.IntEnum):
    """Why this process is to finish."""

    #: A successor serves: finish the open connections and exit.
    UPGRADE = 1
    #: The service ends: finish the open connections and exit.
    STOP = 2
    #: This process is on its own and goes on serving; told once.
    DETACH = 3


class Failure(enum.IntEnum):
    """Why an upgrade failed, or a generation cannot go on."""

    NONE = 0
    #: The new program could not be started.
    SPAWN = 1
    #: It exited too early.
    EXITED = 2
    #: It was ended by a signal too early.
    SIGNALLED = 3
    #: It was not ready by the upgrade deadline; of a drain: connections were open at the drain deadline.
    DEADLINE = 4
    #: A hook refused, or the new one gave up.
    REFUSED = 5
    #: The state could not be handed over, or was lost.
    STATE = 6
    #: The other generation broke the protocol.
    PROTOCOL = 7
    #: This process is not ready itself yet.
    NOT_READY = 8
    #: Another upgrade is under way.
    IN_PROGRESS = 9
    #: Too many older generations still drain.
    DRAINING = 10
    #: This process is stopping, was asked to stop, or was given up by its predecessor.
    STOPPING = 11
    #: The new process was told to serve and has not confirmed it; both are left alone.
    UNCONFIRMED = 12
    #: Upgrades cannot work here, as in process 1.
    UNSUPPORTED = 13
