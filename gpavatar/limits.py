"""What the readers take from a file, all in one place: beyond it lie damage and malice, not work.

A program stays within 2 GB and answers within seconds, whatever it is given. Legitimate uses lie well inside: photos of
the largest cameras, 8K video, an hour of 4K at 60 frames/s and its track. docs/security.md lists them for users.
"""

from __future__ import annotations

MIB = 2**20

MAX_IMAGE_PIXELS = 120_000_000  # the largest cameras have 108; 4 bytes each while it is decoded
MAX_VIDEO_PIXELS = 8192 * 4608  # 8K (DCI, and a margin); a decoder holds up to 16 such pictures
MAX_ANIMATION_PIXELS = 2**31  # frames x size: 1,000 frames of full HD; all are looked at to learn their delays
MAX_TRACK_BYTES = 1024 * MIB  # unpacked; an hour at 60 frames/s has 860
MAX_AVATAR_BYTES = 512 * MIB  # an avatar of textured_mesh has about 30
MAX_MODEL_BYTES = 512 * MIB  # of a head model's file, an unpacked archive member or a dense array; FLAME has 53
MAX_PICKLE_OPCODES = 30_000  # FLAME has some thousand; deeper nesting can overflow the C stack
MAX_YAML_BYTES = MIB
MAX_YAML_DEPTH = 32
MAX_ARCHIVE_BYTES = 1024 * MIB  # of a download, and of a tar.gz once unpacked; the largest asset has 53
