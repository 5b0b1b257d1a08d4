#!/usr/bin/env python3
"""Make a CPython that this machine lacks, of Debian's packages, and print its path: ``tools/interpreter.py 3.14``.

It is made once and kept in the user's cache, in a folder that is named after how it was made. What is there is used
again if it still works; it is renewed when that folder is removed. The packages come through apt, which checks them,
from the mirror that apt uses on this machine; of the release that has them, only the lists are fetched, into a folder
of this tool's own. Of the machine nothing is changed but that the packages are installed that it takes to compile,
which needs root.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import hashlib
import inspect
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO, ClassVar

from debian import BuildError, call, install, mirror, tail, user_cache

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

WORKS = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
sys.exit(sys._is_gil_enabled() != (sys.argv[1] == "with the GIL"))
"""

# Debian's change of where packages are installed doesn't know of the "t" in the name of a virtual environment's folder.
SITECUSTOMIZE = """\
import site, sysconfig
site.addsitedir(sysconfig.get_path("purelib"))
"""


def apt_get(work: Path, kind: str, suite: str, log: IO[bytes]) -> list[str]:
    """The start of a command of apt's that knows one release of Debian, and of no package that is installed."""
    for needed in ("lists/partial", "cache/archives/partial"):
        (work / needed).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"{kind} [signed-by={KEYRING}] {mirror()} {suite} main\n")
    places = {
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": work / "lists",
        "Dir::State::Status": work / "status",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",  # the sandbox's user can't see this folder
    }
    command = ["apt-get", *(f"--option={name}={place}" for name, place in places.items())]
    call([*command, "update"], log)
    return command


@dataclasses.dataclass(frozen=True)
class Unpacked:
    """Debian's own build, in a folder together with each library that it needs: the libc of this machine is older."""

    package: str
    suite: str
    gil: ClassVar = "with the GIL"
    needed: ClassVar = ("build-essential", "debian-archive-keyring")

    @property
    def python(self) -> Path:
        return Path("usr", "bin", self.package)

    def make(self, folder: Path, work: Path, log: IO[bytes]) -> None:
        """Fetch and unpack the packages, and put them into the folder."""
        apt = apt_get(work, "deb", self.suite, log)
        wanted = (f"{self.package}-dev", "patchelf")
        call([*apt, "install", "--yes", "--download-only", "--no-install-recommends", *wanted], log)
        root = work / "root"
        for package in (work / "cache" / "archives").glob("*.deb"):
            call(["dpkg-deb", "--extract", str(package), str(root)], log)
        # The one in its usual place leads to the one of the machine's kind, in a folder that a compiler is not told of.
        (header,) = (root / "usr" / "include").glob(f"*/{self.package}/pyconfig.h")
        shutil.copyfile(header, root / "usr" / "include" / self.package / "pyconfig.h")
        self.use_own_libraries(root, folder, log)
        root.rename(folder)

    def use_own_libraries(self, root: Path, folder: Path, log: IO[bytes]) -> None:
        """Have the program load its own libc and libraries, from where they will be; other programs don't see them."""
        (loader,) = (root / "usr" / "lib").glob("*-linux-gnu*/ld-linux*.so.*")
        libraries, final = loader.parent, folder / loader.parent.relative_to(root)
        patch = [str(loader), "--library-path", str(libraries), str(root / "usr" / "bin" / "patchelf")]
        program = str(root / self.python)
        # One after the other, and in this order: else the program that patchelf 0.18 leaves crashes.
        call([*patch, "--force-rpath", "--set-rpath", str(final), program], log)
        call([*patch, "--set-interpreter", str(final / loader.name), program], log)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Built without the GIL from Debian's source package, since Debian has no such packages."""

    package: str
    suite: str
    configure: tuple[str, ...] = ()
    gil: ClassVar = "without the GIL"
    needed: ClassVar = (
        *("build-essential", "debian-archive-keyring", "dpkg-dev", "pkg-config"),
        *("libffi-dev", "libssl-dev", "zlib1g-dev"),
    )

    @property
    def python(self) -> Path:
        return Path("bin", f"{self.package}t")

    def make(self, folder: Path, work: Path, log: IO[bytes]) -> None:
        """Fetch the source, with Debian's patches applied, compile it and install it in the folder."""
        apt = apt_get(work, "deb-src", self.suite, log)
        (work / "source").mkdir()
        call([*apt, "source", self.package], log, cwd=work / "source")
        (source,) = (path for path in (work / "source").iterdir() if path.is_dir())
        installed = work / "installed"
        self.compile(source, folder, installed, log)
        made = installed / folder.relative_to("/")
        (made / "lib" / f"{self.package}t" / "sitecustomize.py").write_text(SITECUSTOMIZE)
        shutil.copyfile(source / "Tools/tsan/suppressions_free_threading.txt", made / "thread-sanitizer.txt")
        made.rename(folder)

    def compile(self, source: Path, folder: Path, installed: Path, log: IO[bytes]) -> None:
        """Compile it, with all processors, and install it below another root."""
        # Not the optimized build, which runs CPython's tests to see what to optimize: this one is there in minutes.
        kind = ("--disable-gil", "--disable-test-modules", "--without-ensurepip", *self.configure)
        build = source / "build-here"
        build.mkdir()
        call(["../configure", f"--prefix={folder}", "--quiet", "OPT=-DNDEBUG -O2", *kind], log, cwd=build)
        quiet = {"TSAN_OPTIONS": "report_bugs=0"}  # the fresh interpreter takes part
        call(["make", "--silent", f"--jobs={os.cpu_count()}"], log, quiet, cwd=build)
        # What compiles the whole library in Python only tells how to use it: a module is compiled at its first import.
        quick = "COMPILEALL_OPTS=--help"
        call(["make", "--silent", "install", f"DESTDIR={installed}", quick], log, quiet, cwd=build)


# What a compiler for musl is as on Alpine: its programs name their libc as there, and know the kernel's headers.
MUSL_COMPILER = """\
#!/bin/sh
[ "$1" = --print-multiarch ] && exec echo {machine}-linux-musl
exec musl-gcc -idirafter {folder}/kernel -L{folder} "$@"
"""


class ForMusl(Compiled):
    """Built for musl, from Debian's source packages: Debian has the libc, and no interpreter for it.

    It has what it takes to build a wheel and to run tests, and neither ssl nor ctypes, whose libraries it would take.
    """

    gil: ClassVar = "with the GIL"
    needed: ClassVar = (
        "build-essential",
        "debian-archive-keyring",
        "dpkg-dev",
        "linux-libc-dev",
        "musl-tools",
        "patchelf",
    )

    @property
    def python(self) -> Path:
        return Path("bin", self.package)

    def make(self, folder: Path, work: Path, log: IO[bytes]) -> None:
        """Fetch the sources, make the compiler where it will stay, and have it compile them."""
        sources = []
        for package, suite in (("zlib", "bookworm"), (self.package, self.suite)):
            place = work / package
            place.mkdir(parents=True)
            apt = apt_get(place, "deb-src", suite, log)
            call([*apt, "source", package], log, cwd=place)
            sources += [path for path in place.glob(f"{package}-*") if path.is_dir()]
        zlib, source = sources
        compiler = {"CC": str(self.make_compiler(folder / "musl", log))}
        libraries, installed = work / "libraries", work / "installed"
        static = {**compiler, "CFLAGS": "-O2 -fPIC"}
        call(["./configure", "--static", f"--prefix={libraries}"], log, static, cwd=zlib)
        call(["make", "--silent", "install"], log, static, cwd=zlib)
        found = {"CPPFLAGS": f"-I{libraries}/include", "LDFLAGS": f"-L{libraries}/lib"}
        own = {**compiler, **found, "PKG_CONFIG_LIBDIR": str(libraries / "lib/pkgconfig")}
        kind = ("--disable-test-modules", "--without-ensurepip", *self.configure)
        call(["./configure", f"--prefix={folder}", "--quiet", "OPT=-DNDEBUG -O2", *kind], log, own, cwd=source)
        call(["make", "--silent", f"--jobs={os.cpu_count()}"], log, cwd=source)
        quick = "COMPILEALL_OPTS=--help"
        call(["make", "--silent", "install", f"DESTDIR={installed}", quick], log, cwd=source)
        shutil.copytree(installed / folder.relative_to("/"), folder, symlinks=True, dirs_exist_ok=True)

    def make_compiler(self, folder: Path, log: IO[bytes]) -> Path:
        """The compiler, which the interpreter will name for what is compiled for it."""
        machine = platform.machine()
        (folder / "kernel").mkdir(parents=True)
        for name, place in (("linux", ""), ("asm-generic", ""), ("asm", f"{machine}-linux-gnu")):
            (folder / "kernel" / name).symlink_to(Path("/usr/include", place, name))
        shutil.copyfile(f"/usr/lib/{machine}-linux-musl/libc.so", folder / "libc.so")
        call(["patchelf", "--set-soname", f"libc.musl-{machine}.so.1", str(folder / "libc.so")], log)
        compiler = folder / "cc"
        compiler.write_text(MUSL_COMPILER.format(machine=machine, folder=folder))
        compiler.chmod(0o755)
        return compiler


# A change of Debian's drops what configure itself would have the linker do. The names in the suppressions are those of
# functions that are inlined as well, which only -g tells.
THREAD_SANITIZER = ("--with-thread-sanitizer", "LDFLAGS_NODIST=-fsanitize=thread", "OPT=-DNDEBUG -O2 -g")

INTERPRETERS: dict[str, Unpacked | Compiled] = {
    "3.13t": Compiled("python3.13", "trixie"),
    "3.13-musl": ForMusl("python3.13", "trixie"),
    "3.13t-tsan": Compiled("python3.13", "trixie", THREAD_SANITIZER),
    "3.14": Unpacked("python3.14", "sid"),
    "3.15": Unpacked("python3.15", "sid"),
}


def identity(name: str) -> str:
    """The interpreter and how it is made, as a short name."""
    recipe = "\0".join((repr(INTERPRETERS[name]), inspect.getsource(type(INTERPRETERS[name])), SITECUSTOMIZE))
    return f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def works(python: Path, wanted: Unpacked | Compiled) -> bool:
    """Whether there is an interpreter, and it has the modules that it was made for, and a GIL or none as it should."""
    modules = ["venv", "zlib"] if isinstance(wanted, ForMusl) else ["ctypes", "ssl", "venv", "zlib"]
    command = [python, "-c", WORKS, wanted.gil, *modules]
    return python.exists() and subprocess.run(command, check=False).returncode == 0


def install_needed(needed: tuple[str, ...], log: IO[bytes]) -> None:
    """Install what it takes to compile, as far as it isn't there."""
    state = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}\\n", *needed]
    states = subprocess.run(state, stdout=subprocess.PIPE, stderr=log, check=False, text=True).stdout.split()
    if states.count("installed") == len(needed):
        return
    if os.geteuid() != 0:
        raise BuildError(f"only root can install what it takes to compile for CPython: {', '.join(needed)}")
    install(needed, log)


def build(name: str, cache: Path) -> Path:
    """The interpreter, made if it isn't there; of several that want it, one makes it."""
    wanted = INTERPRETERS[name]
    folder = cache / identity(name)
    python = folder / wanted.python
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if works(python, wanted):
            return python
        log, work = cache / f"{name}.log", cache / f"{name}.partial"
        print(f"interpreter.py: making {python}; {log} tells how it goes", file=sys.stderr, flush=True)
        for left_over in (folder, work):
            shutil.rmtree(left_over, ignore_errors=True)
        try:
            with log.open("wb") as output:
                install_needed(wanted.needed, output)
                wanted.make(folder, work, output)
        except subprocess.CalledProcessError as error:
            raise BuildError(f"{error}; the end of {log}:\n{tail(log)}") from error
        shutil.rmtree(work)
        if not works(python, wanted):
            raise BuildError(f"{python} was made and doesn't work; {log} may tell why")
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a CPython of Debian's packages, and print its path.")
    parser.add_argument(
        "name", choices=INTERPRETERS, help="the version; t: without the GIL; tsan: ThreadSanitizer; musl: for that libc"
    )
    name = parser.parse_args().name
    if not shutil.which("apt-get"):
        sys.exit("interpreter.py: it takes Debian's packages, and this machine has no apt-get")
    try:
        print(build(name, user_cache("interpreters")))
    except BuildError as error:
        sys.exit(f"interpreter.py: {error}")


if __name__ == "__main__":
    main()
