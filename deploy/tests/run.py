"""Runs the checks: run.py FILEGATE COMPOSE_SCHEMA [WORD]. deploy/test prepares what they need."""

import signal
import sys

import kit

# Their checks are run in this order.
import image  # noqa: F401
import compose  # noqa: F401
import chart  # noqa: F401
import unit  # noqa: F401
import stores  # noqa: F401
import proxies  # noqa: F401


def main():
    """Nothing is left behind, however it ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    context = kit.Context(*sys.argv[1:3])
    try:
        return 0 if kit.run_all(context, "".join(sys.argv[3:4])) else 1
    finally:
        context.close()


sys.exit(main())
