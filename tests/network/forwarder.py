"""A network between devices and their server that a test can cut.

with Forwarder(to=server.port) as network:
    network.cut()         # bytes and new connections vanish, as if a cable was pulled
    network.mend()
"""

import contextlib
import selectors
import socket
import threading

BYTES = 2**16


class Forwarder:
    """Passes TCP connections on; while it is cut, nothing passes and nothing is closed."""

    def __init__(self, to):
        self.to = to
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self.listener.getsockname()[1]
        self.passing = threading.Event()
        self.passing.set()
        self.ended = False

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended = True
        self.passing.set()
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self.listener.close()

    def cut(self):
        self.passing.clear()

    def mend(self):
        self.passing.set()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                device, _ = self.listener.accept()
                threading.Thread(target=self._pass, args=(device,), daemon=True).start()

    def _pass(self, device):
        self.passing.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self.to), 10)
        except OSError:
            device.close()  # as a server that is not there refuses
            return
        with device, server, selectors.DefaultSelector() as ready, contextlib.suppress(OSError):
            ready.register(device, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, device)
            while not self.ended:
                for key, _ in ready.select(0.5):
                    piece = key.fileobj.recv(BYTES)
                    self.passing.wait()
                    if not piece:
                        return
                    key.data.sendall(piece)
