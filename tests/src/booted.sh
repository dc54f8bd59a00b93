# Makes this machine's files the root of another one, which what is written there does not change, and starts systemd in it.
# In namespaces of its own (mounts, processes, network, cgroups …); $1 is a folder for what it needs, $2 the package's folder.
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
cd root
for folder in run tmp var/lib/tulle var/lib/tulle-server etc/tulle; do
    mkdir -p $folder
    mount -t tmpfs -o mode=755 tmpfs $folder
done
# Those are mount points that the package cannot remove.
umount etc/tulle var/lib/tulle var/lib/tulle-server
rm -rf etc/tulle var/lib/tulle var/lib/tulle-server
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm mnt/packages
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
touch dev/console
mount --bind "$2" mnt/packages
rm -f usr/sbin/policy-rc.d
# None of what this machine would start, but what units need.
rm -rf etc/systemd/system/*
cat > etc/systemd/system/tulle-test.target <<UNIT
[Unit]
Description=What the tests need
Requires=sysinit.target basic.target
After=sysinit.target basic.target
UNIT
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-resolved.service systemd-networkd.service systemd-timesyncd.service \
    systemd-modules-load.service systemd-sysctl.service systemd-binfmt.service systemd-hwdb-update.service systemd-journal-flush.service systemd-firstboot.service; do
    ln -s /dev/null etc/systemd/system/$unit
done
: > etc/machine-id
: > etc/fstab
mkdir old
pivot_root . old
umount -l /old
rmdir /old
exec env -i container=tulle-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=tulle-test.target --log-target=journal --show-status=no
