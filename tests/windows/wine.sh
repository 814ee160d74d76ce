# Sourced by `run`: starts commands in its Wine prefix, and ends whatever is there.
# shellcheck shell=sh disable=SC2154 # $wine and $server are run's

# In the background, because a shell's traps wait for what it runs in the foreground.
in_wine() {
    seconds=$1
    shift
    timeout --kill-after=10 "$seconds" "$wine" "$@" 9>&- &
    wait $!
}

# The kernel is asked, not wineserver: it may have died, and what hangs in C outlives it.
wine_pids() {
    for process in /proc/[0-9]*; do
        case $(readlink "$process/exe") in */wine*) ;; *) continue ;; esac
        if tr '\0' '\n' <"$process/environ" | grep -qxF "WINEPREFIX=$WINEPREFIX"; then
            echo "${process#/proc/}"
        fi
    done 2>/dev/null
}

kill_wine() {
    while pids=$(wine_pids) && [ -n "$pids" ]; do
        # shellcheck disable=SC2086 # $pids are words
        kill -9 $pids 2>/dev/null || true
        sleep 0.1
    done
}

# Ends all of this prefix; other prefixes are left alone.
stop_wine() {
    if [ -d "$WINEPREFIX" ]; then timeout 60 "$server" -k 2>/dev/null || true; fi
    kill_wine
}
