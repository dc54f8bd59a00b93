"""How much of the processors a client may have beside others."""

import os


def lowest():
    """Nothing that anybody else wants. Linux shares the processors among sessions first, if it groups by them (sched(7),
    autogroup), and a niceness holds only within one."""
    os.nice(19)
    try:
        with open("/proc/self/autogroup", "w") as group:
            group.write("19")
    except OSError:
        pass
