# Runs where KVM is: the plan, a Debian guest with a disk and a network, and what it can do. $interactive: 1 or empty.

set -u
tap=ambit-demo host=10.77.0.1 guest=10.77.0.2
say() { printf '\n--- %s\n' "$*"; }

cp --sparse=always "$AMBIT_IMAGES/root.ext4" root.ext4
ip tuntap add "$tap" mode tap && ip address add "$host/24" dev "$tap" && ip link set "$tap" up || exit 1
trap 'ip link delete "$tap"' EXIT

machine=(--memory 512M --cpus 2 --disk path=root.ext4,id=root --net "tap=$tap,id=net")
boot=(--kernel "$AMBIT_IMAGES/Image" --initrd "$AMBIT_IMAGES/initrd.gz")
cmdline="console=ttyAMA0 root=/dev/vda rw panic=-1 ambit.ip=$guest/24"

say "ambit plan ${machine[*]}"
ambit plan "${machine[@]}" || exit 1

if [[ $interactive ]]; then
    say "the guest's console; poweroff -f ends it, and so does ctrl-a x; the host is $host"
    ambit run "${boot[@]}" "${machine[@]}" --cmdline "$cmdline quiet ambit.interactive"
    exit
fi

say "ambit run ${boot[*]} ${machine[*]} --cmdline '$cmdline quiet'"
begun=${EPOCHREALTIME/[.,]/}
coproc console {
    exec "$AMBIT_BIN" run --timings "${boot[@]}" "${machine[@]}" --cmdline "$cmdline quiet" 2>errors
}
exec {keys}>&"${console[1]}" {screen}<&"${console[0]}"
monitor=$console_PID

fail() {
    say "$1; ambit said:"
    cat errors
    kill "$monitor"
    exit 1
}

# Shows the console up to a line that begins with $1, and puts what follows there into $rest.
until_line() {
    local line
    while IFS= read -r -t 120 -u "$screen" line; do
        line=${line%$'\r'}
        [[ $line == "$1"* ]] && rest=${line#"$1"} && return
        printf '%s\n' "$line"
    done
    fail "the guest did not say '$1'"
}

until_line AMBIT-GUEST-READY
ready=${EPOCHREALTIME/[.,]/}
say "the guest's init is up"

# What is typed is neither echoed nor prompted for, so that the output stands alone.
printf "stty -echo; PS1=; status() { echo STATUS'-'\$?; }; status\n" >&"$keys"
until_line '# STATUS-' >/dev/null
for command in \
    'uname -a' \
    'lsblk' \
    'dd if=/dev/urandom of=data bs=1M count=16 status=none && sha256sum data >sum && sync' \
    'echo 3 >/proc/sys/vm/drop_caches && sha256sum -c sum' \
    "ping -c 3 -i 0.2 $host"; do
    printf 'guest# %s\n' "$command"
    printf '%s\nstatus\n' "$command" >&"$keys"
    until_line STATUS-
    [[ $rest == 0 ]] || fail "the command ended with $rest"
done
printf 'guest# poweroff -f\n'
printf 'poweroff -f\n' >&"$keys"
cat <&"$screen"
wait "$monitor"
status=$?

say 'time since ambit was started'
tr -d '\r' <errors >said
sed -n 's/^ambit: timing \([^ ]*\) \([0-9.]*\) ms$/\1 \2/p' said | while read -r phase time; do
    printf '%20s %8.1f ms\n' "$phase" "$time"
done
printf '%20s %8d ms\n' init $(((ready - begun) / 1000))
grep -v '^ambit: timing ' said
say "ambit ended with $status"
exit "$status"
