"""A stand-in for the volume server as a child: opens the two ports, answers /healthz, and obeys its words on signals.

Run as a program: backend_program.py HTTP_PORT GRPC_PORT [WORD...]. Words: unready (answers 503), stubborn (ignores
TERM), crash (exits 3 at once), chatty (prints more than a pipe holds), parent (starts a child of its own, and prints
its pid).
"""

import signal
import socket
import subprocess
import sys
import threading


def listen(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    made.listen()
    return made


def serve_health(listener: socket.socket, status: bytes) -> None:
    while True:
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(4096)
            accepted.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def main(http_port: int, grpc_port: int, words: list[str]) -> int:
    print("I0823 10:11:12.123456 volume.go:1 starting", flush=True)
    if "crash" in words:
        print("E0823 10:11:12.123456 volume.go:2 cannot go on", file=sys.stderr, flush=True)
        return 3
    if "chatty" in words:
        print("x" * 300_000, flush=True)
    if "parent" in words:
        print(f"grandchild {subprocess.Popen(['/bin/sleep', '600']).pid}", flush=True)
    done = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: print("W0823 10:11:12.123456 volume.go:3 reload", flush=True))
    signal.signal(signal.SIGTERM, (lambda *_: None) if "stubborn" in words else (lambda *_: done.set()))
    grpc_listener = listen(grpc_port)
    status = b"503 Service Unavailable" if "unready" in words else b"200 OK"
    threading.Thread(target=serve_health, args=(listen(http_port), status), daemon=True).start()
    while not done.wait(0.02):  # woken often, for a signal handler runs between two waits
        pass
    grpc_listener.close()
    print("I0823 10:11:12.123456 volume.go:4 stopped", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
