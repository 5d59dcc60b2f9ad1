#!/bin/sh
# Process 1 of new namespaces becomes a systemd with a root of its own. Called by machine.rs as
#   unshare --pid --fork --mount --uts --ipc --net --kill-child sh boot.sh
# with ROOT (an empty folder), SYSTEM (where its /usr comes from), CGROUP (the name of its own cgroup), LIBRARY (the shared
# library), SHARED (a folder that both may write to).
set -e
mount --make-rprivate /

# Its cgroups are below one of its own: two of these, or one beside a real systemd, must not meet.
mkdir -p "$ROOT"
mount -t tmpfs -o mode=755 tmpfs "$ROOT"
if [ -z "$INSIDE" ]; then
    mkdir "$ROOT/cgroup"
    mount -t cgroup2 cgroup2 "$ROOT/cgroup"
    mkdir "$ROOT/cgroup/$CGROUP"
    echo 0 > "$ROOT/cgroup/$CGROUP/cgroup.procs"
    umount "$ROOT/cgroup"
    umount "$ROOT"
    INSIDE=1 exec unshare --cgroup sh "$0"
fi

cd "$ROOT"
mkdir usr proc sys dev run etc tmp var root old
mount --rbind "$SYSTEM/usr" usr
mount -o remount,ro,bind usr
mount -t tmpfs -o mode=755 tmpfs usr/local
mkdir usr/local/bin usr/local/lib
# What all units depend on by default would mount, load and create things.
for wants in usr/lib/systemd/system/*.target.wants; do
    mount -t tmpfs -o ro tmpfs "$wants"
done
touch usr/local/lib/libshellflip.so.0
mount --bind "$LIBRARY" usr/local/lib/libshellflip.so.0
mount -o remount,ro,bind usr/local/lib/libshellflip.so.0
for link in bin sbin lib lib64; do
    [ -e "$SYSTEM/$link" ] && ln -s "usr/$link" "$link"
done
# Nothing here is to change the machine's kernel.
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/log/journal var/log
chmod 1777 tmp

printf 'root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' > etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\nsystemd-journal:x:999:\nadm:x:4:\n' > etc/group
echo 'passwd: files' > etc/nsswitch.conf
echo 0123456789abcdef0123456789abcdef > etc/machine-id
echo 'ID=test' > etc/os-release
[ -e "$SYSTEM/etc/ld.so.cache" ] && cp "$SYSTEM/etc/ld.so.cache" etc/
mkdir -p etc/systemd/system
# Nothing but what a test asks for, and a journal to read.
cat > etc/systemd/system/test.target <<'UNIT'
[Unit]
DefaultDependencies=no
Wants=systemd-journald.service
UNIT
printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nReadKMsg=no\nAudit=no\n' > etc/systemd/journald.conf
printf '[Manager]\nDefaultTimeoutStartSec=30s\nDefaultTimeoutStopSec=30s\nLogLevel=info\nDefaultEnvironment=LD_LIBRARY_PATH=/usr/local/lib\n' > etc/systemd/system.conf

mkdir shared
mount --bind "$SHARED" shared
ip link set lo up
pivot_root . old
umount -l /old
rmdir /old
exec env -i container=x PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin \
    /usr/lib/systemd/systemd --system --unit=test.target --log-target=journal-or-kmsg --log-level=info --show-status=no
