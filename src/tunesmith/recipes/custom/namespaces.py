"""The source of the program that starts a custom script: with limits, and in namespaces of its own where bubblewrap has not made
them. It runs in an interpreter of its own that sees nothing of Tunesmith, so it imports the standard library only.

The namespaces give the script its own process numbers, no network unless told, and a file system in memory into which the
places of its view are bound: nothing else has a name there. What may be read only is so for good: the script has no
capabilities, and a namespace that it makes itself cannot change what was bound in the one around it.
"""

APART = r"""
import ctypes, os, signal, sys

libc = ctypes.CDLL(None, use_errno=True)
NEW_NS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NO_SUID, NO_DEV, NO_EXEC, BIND, REC, PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

def mount(source, target, kind=None, flags=0, options=None):
    call("mount", *(text and os.fsencode(text) for text in (source, target, kind)), ctypes.c_ulong(flags), options)

def make_read_only(place, recursive):
    attributes = (ctypes.c_uint64 * 4)(1, 0, 0, 0)  # MOUNT_ATTR_RDONLY
    call("syscall", 442, -100, os.fsencode(place), 0x8000 * recursive, attributes, ctypes.c_size_t(32))  # mount_setattr

def bind(place, read_only):
    source = "/old" + place
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if not os.path.lexists(place):
            open(place, "x").close()
    mount(source, place, flags=BIND | REC)
    if read_only:
        make_read_only(place, True)

def build(view):
    mount(None, "/", flags=REC | PRIVATE)
    known = [(item[0], item[2:], os.path.realpath(item[2:])) for item in view]
    links = {place: os.readlink(place) for kind, place, _ in known if kind == "l"}
    mount("tmpfs", "/tmp", "tmpfs", NO_SUID | NO_DEV, b"mode=755")
    os.mkdir("/tmp/old")
    call("pivot_root", b"/tmp", b"/tmp/old")
    os.chdir("/")
    for name in ("proc", "dev", "tmp"):
        os.mkdir("/" + name)
    mount("proc", "/proc", "proc", NO_SUID | NO_DEV | NO_EXEC)
    mount("tmpfs", "/tmp", "tmpfs", NO_SUID | NO_DEV, b"mode=1777")
    for name in DEVICES:
        if os.path.exists("/old/dev/" + name):
            bind("/dev/" + name, False)
    os.mkdir("/dev/shm")
    mount("tmpfs", "/dev/shm", "tmpfs", NO_SUID | NO_DEV | NO_EXEC, b"mode=1777")
    os.symlink("/proc/self/fd", "/dev/fd")
    for kind, place, real in known:
        if kind == "l":
            os.symlink(links[place], place)
        elif kind == "t":
            os.makedirs(place, exist_ok=True)
            mount("tmpfs", place, "tmpfs", NO_SUID | NO_DEV, b"mode=755")
        elif os.path.lexists("/old" + real):
            if real != place:
                bind(real, kind == "r")
                if not os.path.lexists(place):
                    os.makedirs(os.path.dirname(place), exist_ok=True)
                    os.symlink(real, place)
            else:
                bind(place, kind == "r")
    call("umount2", b"/old", 2)  # MNT_DETACH
    os.rmdir("/old")
    make_read_only("/", False)

def wait_for(pid):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the script hears it itself
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)

def end_with_parent():
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

def apart(network, view):
    uid, gid, folder = os.geteuid(), os.getegid(), os.getcwd()
    call("unshare", NEW_USER | NEW_IPC | NEW_NS | NEW_PID | (0 if network else NEW_NET))
    end_with_parent()
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    if first := os.fork():
        wait_for(first)
    end_with_parent()
    build(view)
    if script := os.fork():  # the first process of a namespace is deaf to signals; with it ends all that the script has left
        wait_for(script)
    end_with_parent()
    os.chdir(folder if os.path.isdir(folder) else "/")
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    for number in range(64):
        libc.prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP
    call("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
"""

LAUNCHER = rf"""{APART}
import resource
how = sys.argv[1]
parent, cpu_s, memory_bytes, file_bytes, num_view = map(int, sys.argv[2:7])
view, command = sys.argv[7 : 7 + num_view], sys.argv[7 + num_view :]
end_with_parent()  # no script outlives its worker
if how != "wrapped":
    if os.getppid() != parent:
        sys.exit(1)
    apart(how == "online", view)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.execv(sys.executable, [sys.executable, "-I", "-u", *command])
"""
"""Sets the limits in the child, then becomes the script. (`preexec_fn` is not safe beside the worker's threads.) `how` it is
kept apart: `wrapped` already, or `offline` or `online` in namespaces of its own."""
