# Runs where KVM is, with bench's own arguments in $@; $bench is the program that measures.

# An emulated host's packages never ran their scripts, so its loader has no cache; QEMU has many libraries to find.
if [[ ! -s /etc/ld.so.cache ]]; then
    cp -r /etc etc && mount --bind etc /etc && ldconfig -i || exit 1
fi
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
exec "$AMBIT_PAYLOAD/$bench" "$@"
