# Runs one server for the launcher and stops it when the launcher is gone, however it went.
#
#   watcher.sh "SIGNAL ..." PROGRAM ARGUMENT...
#
# Standard input is a pipe whose only writer is the launcher. The kernel closes it when the launcher exits or is killed, so
# the end of the input is the one order to stop. Each signal is given a few seconds before the next one; SIGKILL is the last.
# The process id of the server is printed first; its output goes to standard error, which is the log.
exec 3<&0 </dev/null
# When the launcher ends while the server is suspended, the kernel hangs up this process group, which nobody could resume.
trap '' HUP
signals=$1
shift

"$@" 3<&- >&2 &
server=$!
echo "$server"
exec >/dev/null

# The server and its direct children. Those of Postgres lead sessions of their own, so no process group holds them.
signal_all() {
    children=$(cat "/proc/$server/task/$server/children" 2>/dev/null)
    # Word splitting is wanted: one argument a process.
    kill -s "$1" "$server" $children 2>/dev/null
}

(
    read -r _ <&3
    # A suspended server would not hear the order.
    signal_all CONT
    for signal in $signals; do
        kill -s "$signal" "$server" 2>/dev/null
        tenths=30
        while [ "$tenths" -gt 0 ]; do
            sleep 0.1
            tenths=$((tenths - 1))
        done
    done
    signal_all KILL
) &

wait "$server"
# Ends this script and the part that waits for the end of the input, with whatever it is running.
kill -s KILL 0
