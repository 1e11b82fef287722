"""Stands for an interpreter in a command: has the server run the program, and ends as the program ends."""

import json
import os
import signal
import socket
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
body = json.dumps({"arguments": sys.argv[2:], "environ": dict(os.environ)}).encode()
socket.send_fds(connection, [len(body).to_bytes(4, "big")], [0, 1, 2, os.open(".", os.O_RDONLY)])
connection.sendall(body)
for number in SIGNALS:
    signal.signal(number, lambda number, _frame: connection.send(bytes([number])))
status = int(connection.recv(16))
if status < 0:  # by a signal
    if -status in SIGNALS:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
