from __future__ import annotations

import pytest
import typer

from kvpool.cli._sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("65536", 65536),
        ("512MiB", 512 << 20),
        ("512mib", 512 << 20),
        (" 1.5 GiB ", 3 << 29),
        ("2KB", 2000),
        ("1.1kB", 1100),
        ("7 B", 7),
        ("0.125TiB", 1 << 37),
        ("9" * 30, int("9" * 30)),
    ],
)
def test_sizes_that_people_write(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid size ''"),
        ("lots", "invalid size 'lots'; expected e.g. 512MiB, 1.5GB or 65536"),
        ("512M", "invalid size '512M'"),
        ("-1MiB", "invalid size '-1MiB'"),
        ("1e6", "invalid size '1e6'"),
        ("\u0661MiB", "MiB'; expected"),
        ("0.3KiB", "invalid size '0.3KiB': not a whole number of bytes"),
    ],
)
def test_sizes_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(typer.BadParameter, match=reason):
        parse_size(text)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (42.7 * 1024, "42.7 KiB"),
        (512 << 20, "512.0 MiB"),
        (27 << 30, "27.0 GiB"),
        (5 << 40, "5.0 TiB"),
        (5000 << 40, "4.9 PiB"),
    ],
)
def test_sizes_that_people_read(nbytes: float, text: str) -> None:
    assert format_size(nbytes) == text
