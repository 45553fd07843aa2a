"""A Prefect server for one command: ``python -m flows.server SOCKET PARENT``; it ends with it."""

import os
import socket
import sys
import threading
import time

import uvicorn

CHECK_SECONDS = 1.0


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(CHECK_SECONDS)
    os._exit(0)


def main(handle: int, parent: int) -> None:
    """Serve Prefect's API on the parent's listening socket until the parent ends."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, log_level="critical"
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=handle)])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
