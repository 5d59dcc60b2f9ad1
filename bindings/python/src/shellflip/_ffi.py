"""The C interface: where the library is, and the prototype of every function of include/shellflip.h that is used
here.

A test compares all of it with the header. `ctypes.CDLL` releases the interpreter's lock during each call. The text of
`flip_last_error` belongs to the calling thread: `errors.check` fetches it right after the call that failed.
"""

import ctypes
import os
from ctypes import POINTER, c_char, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p

TYPE_CHECKING = False  # as typing has it, which is not imported here: a successor starts sooner without it
if TYPE_CHECKING:
    from typing import Any

#: Names the library to load instead of the one beside the package. The only override there is.
OVERRIDE = "SHELLFLIP_LIBRARY"
BESIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libshellflip.so")

#: Result, then arguments. Opaque pointers are c_void_p, and so is a pointer to a pointer: a type of its own for that
#: takes longer to make than the call that needs it.
PROTOTYPES: "dict[str, tuple[Any, ...]]" = {
    "flip_config_new": (c_void_p,),
    "flip_config_free": (None, c_void_p),
    "flip_config_set_signal": (c_int, c_void_p, c_int, c_int),
    "flip_config_set_upgrade_timeout": (c_int, c_void_p, c_uint64),
    "flip_config_set_drain_timeout": (c_int, c_void_p, c_uint64),
    "flip_config_set_hard_stop": (c_int, c_void_p, c_uint64),
    "flip_config_set_probation": (c_int, c_void_p, c_uint64),
    "flip_config_set_max_draining": (c_int, c_void_p, c_uint),
    "flip_config_set_events": (c_int, c_void_p, c_uint),
    "flip_config_set_control_socket": (c_int, c_void_p, c_char_p),
    "flip_config_set_pid_file": (c_int, c_void_p, c_char_p),
    "flip_config_set_watchdog": (c_int, c_void_p, c_int),
    "flip_config_set_fd_store": (c_int, c_void_p, c_int),
    "flip_init": (c_int, c_void_p, c_void_p),
    "flip_free": (None, c_void_p),
    "flip_generation": (c_int, c_void_p),
    "flip_set_command": (c_int, c_void_p, c_char_p, c_void_p),
    "flip_set_env": (c_int, c_void_p, c_char_p, c_char_p),
    "flip_set_directory": (c_int, c_void_p, c_char_p),
    "flip_listen": (c_int, c_void_p, c_char_p),
    "flip_inherit": (c_int, c_void_p, c_char_p),
    "flip_add": (c_int, c_void_p, c_char_p, c_int),
    "flip_take": (c_int, c_void_p, c_char_p),
    "flip_forget": (c_int, c_void_p, c_char_p),
    "flip_inherited": (c_int, c_void_p, POINTER(c_char), c_size_t),
    "flip_take_state": (c_int, c_void_p, c_int),
    "flip_ready": (c_int, c_void_p, c_int),
    "flip_wait_predecessor": (c_int, c_void_p, c_int),
    "flip_upgrade": (c_int, c_void_p, c_int),
    "flip_request": (c_int, c_void_p, c_int),
    "flip_wait_shutdown": (c_int, c_void_p, c_int),
    "flip_shutdown_fd": (c_int, c_void_p),
    "flip_successor_pid": (c_int, c_void_p),
    "flip_extend": (c_int, c_void_p, c_uint64),
    "flip_accept": (c_int, c_void_p, c_int, c_int),
    "flip_conn_begin": (c_int, c_void_p),
    "flip_conn_end": (c_int, c_void_p),
    "flip_conn_count": (c_int, c_void_p),
    "flip_drain": (c_int, c_void_p, c_int),
    "flip_drained_fd": (c_int, c_void_p),
    "flip_event_fd": (c_int, c_void_p),
    "flip_next_event": (c_int, c_void_p, c_int, c_void_p),
    "flip_event_kind": (c_int, c_void_p),
    "flip_event_state_fd": (c_int, c_void_p),
    "flip_event_failure": (c_int, c_void_p),
    "flip_event_text": (c_char_p, c_void_p),
    "flip_event_answer": (c_int, c_void_p, c_int, c_char_p),
    "flip_event_free": (None, c_void_p),
    "flip_status": (c_int, c_void_p, POINTER(c_char), c_size_t),
    "flip_control": (c_int, c_char_p, c_int, c_int),
    "flip_control_status": (c_int, c_char_p, c_int, POINTER(c_char), c_size_t),
    "flip_last_failure": (c_int,),
    "flip_last_error": (c_char_p,),
    "flip_version": (c_char_p,),
}


def library_path() -> str:
    """Which library is loaded: the one that SHELLFLIP_LIBRARY names, else the one beside the package."""
    return os.environ.get(OVERRIDE) or BESIDE


class Library(ctypes.CDLL):
    """Each function has its prototype from when it is first asked for: a successor calls a dozen before it serves."""

    def __getattr__(self, name: str) -> "Any":
        """The function of this name, which is kept only once it is complete: other threads may ask for it too."""
        if name not in PROTOTYPES:
            raise AttributeError(name)
        result, *arguments = PROTOTYPES[name]
        function = self[name]
        function.restype, function.argtypes = result, arguments
        setattr(self, name, function)
        return function


def load(path: str) -> "Library":
    """Loads the library; ImportError says which file and why not."""
    try:
        library = Library(path)
        _ = library.flip_init  # any other library has none
    except (OSError, AttributeError) as error:
        hint = "" if os.environ.get(OVERRIDE) else f"; build the wheel with pip, or name a library in {OVERRIDE}"
        raise ImportError(f"cannot load {path}: {error}{hint}") from error
    return library


#: Loaded with the package: the directory and the signals that a successor starts with are looked at then. No thread
#: starts before Flip().
lib = load(library_path())

#: Numbers that are needed before the enumerations of kinds.py are, and the kinds of events, which no host sees.
REQUEST_NONE = 0
REQUEST_UPGRADE = 1
REQUEST_STOP = 2
EVENT_STARTING = 1
EVENT_STATE = 2
EVENT_FAILED = 4
EVENT_SHUTDOWN = 8
EVENT_LOG = 16
