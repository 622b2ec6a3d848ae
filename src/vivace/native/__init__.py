"""The C++ core, loaded once, with a clear word where it is missing."""

from __future__ import annotations

from vivace.errors import NativeError

try:
    from vivace.native._native import (
        Decoder,
        Integers,
        Sampling,
        measure_multiply_rate,
        measure_read_bandwidth,
        supported_isas,
    )
except ImportError as error:
    raise NativeError(
        "vivace's native core is not built for this Python. Install a C++ compiler (Debian or Ubuntu: apt install g++; "
        "Fedora: dnf install gcc-c++) and run: pip install --force-reinstall ."
    ) from error

__all__ = ["Decoder", "Integers", "Sampling", "measure_multiply_rate", "measure_read_bandwidth", "supported_isas"]
