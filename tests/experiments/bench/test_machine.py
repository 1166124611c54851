"""The pages of memory that both sides of a bench compute in."""

import os
import sys

import pytest

from experiments.bench import machine

GLIBC = ("glibc", "2.36")


@pytest.mark.parametrize(
    ("mode", "libc", "tunables", "begun"),
    [
        ("always [madvise] never", GLIBC, None, "glibc.malloc.hugetlb=1"),
        ("always [madvise] never", GLIBC, "glibc.a=2", "glibc.a=2:glibc.malloc.hugetlb=1"),
        ("always [madvise] never", GLIBC, "glibc.malloc.hugetlb=0", None),  # the user's word
        ("[always] madvise never", GLIBC, None, None),  # they are large already
        ("always madvise [never]", GLIBC, None, None),
        ("always [madvise] never", ("glibc", "2.31"), None, None),
        ("always [madvise] never", ("", ""), None, None),  # musl
        (None, ("", ""), None, None),  # no Linux
    ],
)
def test_a_process_begins_again_once_where_it_has_to_ask(
    mode, libc, tunables, begun, tmp_path, monkeypatch
):
    place = tmp_path / "enabled"
    if mode is not None:
        place.write_text(f"{mode}\n")
    monkeypatch.setattr(machine, "HUGE_PAGES", place)
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.bench", "--works", "sft"])
    if tunables is None:
        monkeypatch.delenv(machine.TUNABLES, raising=False)
    else:
        monkeypatch.setenv(machine.TUNABLES, tunables)
    calls = []
    monkeypatch.setattr(os, "execve", lambda *given: calls.append(given))
    machine.with_large_pages()
    if begun is None:
        assert not calls
        return
    ((program, words, environment),) = calls
    assert program == words[0] == sys.executable
    assert words[1:] == ["-m", "experiments.bench", "--works", "sft"]
    assert environment[machine.TUNABLES] == begun
    monkeypatch.setenv(machine.TUNABLES, begun)
    machine.with_large_pages()
    assert len(calls) == 1
