"""The built-in generator: a program of its own that keeps connections busy with small requests.

It reads plans from its standard input, one JSON object a line, and answers each with one line. It imports little and
runs before the load begins. One thread waits on an epoll. Requests are parts made before, joined with the needle id.

A plan: `host`, `port`, `connections`, `kind` ("get", "post" or "delete"), `seconds` (0: until the ids are used up);
a get has `target`; a post and a delete have `volume`, `first_id` and `ids` (how many; 0: as many as it takes), and
`bytes` is the size of the content.

The answer: `done` requests in `taken_s`, `used_s` of a processor, `answered` in all (after the time is over each
connection still waits for its answer), and `failure`, "" when each answer was the expected one.
"""

import json
import re
import select
import socket
import sys
import time

COOKIE = "01020304"
ANSWER_LIMIT_S = 30
RECEIVE_BYTES = 65536
BOUNDARY = "bench"
STATUS = {"get": b"200", "post": b"201", "delete": b"202"}
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


class UnexpectedAnswer(Exception):
    """An answer that makes the figures mean nothing."""


def form_of(content):
    """A form with one file, as `weed upload` sends it."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    return f"{head}Content-Type: application/x-bench\r\n\r\n".encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def requests_of(plan):
    """The requests of a plan, one after the other."""
    if plan["kind"] == "get":
        request = f"GET {plan['target']} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        while True:
            yield request
    head, tail = f"{plan['kind'].upper()} /{plan['volume']},".encode(), f"{COOKIE} HTTP/1.1\r\nHost: bench\r\n"
    if plan["kind"] == "post":
        form = form_of(b"x" * plan["bytes"])
        tail += f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(form)}\r\n\r\n"
        tail = tail.encode() + form
    else:
        tail = f"{tail}\r\n".encode()
    last_id = plan["first_id"] + plan["ids"] - 1 if plan["ids"] else (1 << 63) - 1
    for needle_id in range(plan["first_id"], last_id + 1):
        yield b"%b%x%b" % (head, needle_id, tail)


def run(plan):
    """Carries a plan out. Returns the answer without `failure`; raises UnexpectedAnswer and OSError."""
    requests, sockets, received = requests_of(plan), {}, {}
    poller = select.epoll()
    try:
        for _ in range(plan["connections"]):
            one = socket.create_connection((plan["host"], plan["port"]), timeout=ANSWER_LIMIT_S)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[one.fileno()] = one
            poller.register(one.fileno(), select.EPOLLIN)
        return _drive(plan, requests, sockets, received, poller)
    finally:
        poller.close()
        for one in sockets.values():
            one.close()


def _drive(plan, requests, sockets, received, poller):
    status, length = STATUS[plan["kind"]], plan["bytes"] if plan["kind"] == "get" else None
    used_s, began_s = time.process_time(), time.perf_counter()
    end_s = began_s + plan["seconds"] if plan["seconds"] else float("inf")
    waiting, answered, done, taken_s = 0, 0, None, 0.0
    for one in sockets.values():
        if (request := next(requests, None)) is not None:
            one.sendall(request)
            waiting += 1
    while waiting:
        events = poller.poll(ANSWER_LIMIT_S)
        if not events:
            raise UnexpectedAnswer(f"no answer for {ANSWER_LIMIT_S} s, {answered} answered before")
        if done is None and (now_s := time.perf_counter()) >= end_s:
            done, taken_s, used_s = answered, now_s - began_s, time.process_time() - used_s
        for number, _ in events:
            one = sockets[number]
            data = one.recv(RECEIVE_BYTES)
            if not data:
                raise UnexpectedAnswer("the server closed a connection")
            if number in received:
                data = received.pop(number) + data
            if not is_whole(data, status, length):
                received[number] = data
                continue
            answered += 1
            request = next(requests, None) if done is None else None
            if request is None:
                waiting -= 1
            else:
                one.sendall(request)
    if done is None:
        done, taken_s, used_s = answered, time.perf_counter() - began_s, time.process_time() - used_s
    return {"done": done, "taken_s": taken_s, "used_s": used_s, "answered": answered}


def is_whole(data, status, length):
    """Whether `data` is one whole answer with this status and, where it is not None, this length of body.

    Raises UnexpectedAnswer for another answer.
    """
    end = data.find(_HEAD_END)
    if end < 0:
        return False
    found = _LENGTH.search(data, 0, end + 2)
    if data[9:12] != status or found is None or (length is not None and int(found[1]) != length):
        raise UnexpectedAnswer(f"wanted {status.decode()}, length {length or 'any'}; got {data[:400]!r}")
    missing = end + len(_HEAD_END) + int(found[1]) - len(data)
    if missing < 0:
        raise UnexpectedAnswer(f"{-missing} bytes after the answer {data[:400]!r}")
    return missing == 0


def main():
    """Serves plans until the input ends."""
    for line in sys.stdin:
        try:
            answer = run(json.loads(line)) | {"failure": ""}
        except (OSError, UnexpectedAnswer) as error:
            answer = {"failure": str(error) or repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
