"""A known packet, for the self-test of a new worker and the canary of an idle one."""

PACKET = bytes.fromhex(
    "48b2fcc4edf5a3cca1385049a351f0c1cc6ab81046344e68531fb019254b8007"
    "d338f2565aa4419356877ef9bbbc04c778440cbb53fb9a7d9780"
)
"""20 ms of SILK, wideband, mono."""

SAMPLES = 320
"""What it decodes to at 16 kHz."""
