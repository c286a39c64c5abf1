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
        ("", "'' is no size"),
        ("lots", "'lots' is no size: a number and one of B, KiB"),
        ("512M", "'512M' is no size"),
        ("-1MiB", "'-1MiB' is no size"),
        ("1e6", "'1e6' is no size"),
        ("\u0661MiB", "MiB' is no size"),
        ("0.3KiB", "'0.3KiB' is no whole number of bytes"),
    ],
)
def test_what_is_no_size(text: str, reason: str) -> None:
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
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_sizes_that_people_read(nbytes: float, text: str) -> None:
    assert format_size(nbytes) == text
