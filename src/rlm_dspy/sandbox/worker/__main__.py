"""Entry point of the zygote: ``python -s -P -S -B worker/__main__.py CONTROL_FD LIFE_FD``.

The host sends its instructions with a file of bytecode from which everything is imported, including this folder's
modules as a separate package. Neither ``rlm_dspy`` nor its dependencies are loaded.
"""

import _socket
import gc
import marshal
import mmap
import os
import sys

MESSAGE = 1 << 18


def receive_bytecode(channel: _socket.socket) -> tuple[bytes, dict[str, tuple[int, int, bool]], memoryview]:
    """Return a message from the host, and the index and code objects of the file sent with it."""
    message, rights, _, _ = channel.recvmsg(MESSAGE, _socket.CMSG_SPACE(4))
    descriptor = int.from_bytes(rights[0][2][:4], sys.byteorder)
    kept = os.dup(descriptor)
    os.close(kept)  # free this number for the mapping's own duplicate, which is closed below
    view = memoryview(mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ))
    os.close(kept)
    os.close(descriptor)
    start = 8 + int.from_bytes(view[:8], "little")
    return message, marshal.loads(view[8:start]), view[start:]


if __name__ == "__main__":
    gc.disable()  # no garbage is made before the first session
    kind = _socket.SOCK_SEQPACKET if sys.platform == "linux" else _socket.SOCK_DGRAM
    channel = _socket.socket(_socket.AF_UNIX, kind, 0, int(sys.argv[1]))
    instructions, index, codes = receive_bytecode(channel)
    first, last, _ = index["rlm_worker.bytecode_importer"]
    space: dict[str, object] = {"__name__": "rlm_worker.bytecode_importer"}
    exec(marshal.loads(codes[first:last]), space)
    importer = space["BytecodeImporter"]()  # type: ignore[operator]
    importer.add(index, codes)
    sys.meta_path.insert(2, importer)  # before the finder that searches folders
    __import__("rlm_worker.forks", fromlist=["watch"]).watch()  # before the first module that registers handlers
    main = __import__("rlm_worker.zygote", fromlist=["main"]).main
    main(channel, int(sys.argv[2]), instructions, importer, receive_bytecode)
