"""The command of mmdebstrap, and progress read from its output."""

from pathlib import Path

from atoll.server.host.mmdebstrap import Bootstrap, Meter

REQUEST = Bootstrap(
    target=Path("/t/rootfs"),
    suite="trixie",
    variant="minbase",
    packages=("python3", "sudo"),
    sources=("deb http://m.example/debian trixie main",),
    hooks=(("extract", "one"), ("customize", "two")),
    apt_options=('Acquire::Languages "none"',),
)
OUTPUT = """I: running apt-get update...
Get:1 http://m.example/debian trixie InRelease
I: downloading packages with apt...
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Get:1 http://m.example/debian trixie/main amd64 libc6
Get:2 http://m.example/debian trixie/main amd64 dash
I: extracting archives...
I: installing essential packages...
Setting up libc6
I: installing remaining packages inside the chroot...
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Get:1 http://m.example/debian trixie/main amd64 python3
Get:2 http://m.example/debian trixie/main amd64 sudo
Unpacking python3
Unpacking sudo
Setting up python3
Setting up sudo
Setting up one that nobody counted
I: running --customize-hook in shell: sh -c 'two'
I: cleaning package lists and apt cache...
I: success in 9.9 seconds
"""


def test_everything_is_in_the_command() -> None:
    argv = REQUEST.argv()

    assert argv[0] == "mmdebstrap"
    assert "--include=python3,sudo" in argv
    assert "--extract-hook=one" in argv
    assert argv.index("--extract-hook=one") < argv.index("--customize-hook=two")
    assert argv[-3:] == ["trixie", "/t/rootfs", "deb http://m.example/debian trixie main"]


def test_progress_only_grows_and_ends_near_the_end() -> None:
    told: list[tuple[str, float]] = []
    meter = Meter(lambda phase, fraction: told.append((phase, fraction)))

    for line in OUTPUT.splitlines():
        meter.read(line)

    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert [fraction for phase, fraction in told if phase == "installing packages"][-1] == 0.96
    assert told[0] == ("reading package lists", 0.0)
    assert told[-1] == ("cleaning", 0.97)


def test_any_line_may_come() -> None:
    meter = Meter(None)

    for line in (
        "",
        "I: ",
        "Get:",
        "9999999999999999 upgraded, 0 newly installed",
        "Setting up x",
        "\x00\xff",
    ):
        meter.read(line)
