"""Picture files written by the book, byte for byte, for tests."""

import struct
import zlib

import numpy as np


def pack(values, bits):
    """Rows of numbers of any number of bits, each row padded to whole bytes."""
    rows = np.asarray(values, np.int64)
    planes = (rows[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)
    return b"".join(np.packbits(row.ravel()).tobytes() for row in planes)


def tiff(path, size, pixels, bits, order="<", samples=1, colour=1, zipped=False, **tags):
    """A TIFF of one strip; ``tags`` are numbers or lists, by ``t`` and their number.

    ``pixels`` are bytes, or a list of them for separate planes.
    """
    strips = pixels if isinstance(pixels, list) else [pixels]
    strips = [zlib.compress(strip) if zipped else strip for strip in strips]
    entries = {256: size[1], 257: size[0], 258: [bits] * samples, 259: 8 if zipped else 1}
    entries |= {262: colour, 277: samples, 278: size[0], 284: 1 if len(strips) == 1 else 2}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    entries[273] = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    entries[279] = list(map(len, strips))
    body = b"".join(strips)
    directory = struct.pack(f"{order}H", len(entries))
    after, beyond = 8 + len(body) + 2 + 12 * len(entries) + 4, b""
    for tag, value in sorted(entries.items()):
        values = value if isinstance(value, list) else [value]
        data = struct.pack(f"{order}{len(values)}{'I' if tag in (273, 279) else 'H'}", *values)
        kind = 4 if tag in (273, 279) else 3
        directory += struct.pack(f"{order}HHI", tag, kind, len(values))
        if len(data) <= 4:
            directory += data.ljust(4, b"\0")
        else:
            directory += struct.pack(f"{order}I", after + len(beyond))
            beyond += data
    magic = b"II" if order == "<" else b"MM"
    header = magic + struct.pack(f"{order}HI", 42, 8 + len(body))
    path.write_bytes(header + body + directory + bytes(4) + beyond)
    return path


def png(path, width, depth, colour_type, rows, *chunks, height=None, interlaced=False):
    """A PNG: ``rows`` are bytes, ``chunks`` (type, data); ``height`` if there are fewer rows."""
    height = len(rows) if height is None else height
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), *chunks, (b"IDAT", content), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data)
    return path
