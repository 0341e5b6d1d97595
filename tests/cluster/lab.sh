#!/bin/bash
# A cluster's hosts on one machine: namespaces with a root of their own and sshd, so that `ray up` can be run for real.
#
#   export PYTHON=path/to/venv/bin/python LAB=/tmp/lab     # a Python with ray[default] and what vadtune needs
#   tests/cluster/lab.sh up                                # hosts laptop, head, worker1, worker2
#   tests/cluster/lab.sh run laptop 'ssh -i ~/.ssh/lab_key 10.200.0.10 hostname'
#   tests/cluster/lab.sh crash worker1                     # its power goes
#   tests/cluster/lab.sh down
#
# All hosts mount /mnt/shared. Root and its files are an overlay: the machine itself stays as it is.
# Needs root, overlayfs, iproute2, util-linux, openssh-client; sshd and rsync are installed into the overlay when the
# machine has none.
set -euo pipefail

REPOSITORY=$(cd "$(dirname "$0")/../.." && pwd)
LAB=${LAB:-${TMPDIR:-/tmp}/vadtune-lab}
HOSTS="laptop:10.200.0.1 head:10.200.0.10 worker1:10.200.0.11 worker2:10.200.0.12"

up() {
    [ ! -e "$LAB" ] || { echo "$LAB exists: 'lab.sh down' first" >&2; exit 1; }
    local python=${PYTHON:?path of the Python to run Ray with}
    mkdir -p "$LAB"
    mount -t tmpfs -o size=8G vadtune-lab "$LAB"
    mkdir -p "$LAB/shared" "$LAB"/base/{upper,work,root}
    echo "vt$$" > "$LAB/prefix"
    ssh-keygen -q -t ed25519 -N '' -f "$LAB/key"
    install_sshd
    make_environment "$python"
    make_network
    local host
    for host in $HOSTS; do start_host "${host%:*}"; done
    for host in $HOSTS; do wait_for_sshd "${host%:*}"; done
    install -m 600 "$LAB/key" "$LAB/laptop/home/.ssh/lab_key"
}

run() {  # run HOST COMMAND: as root on that host, in the repository
    local init
    init=$(init_of "$1")
    shift
    nsenter -t "$init" -m -p -u -i -n -r -w env -i HOME=/root TERM=dumb LANG=C.UTF-8 \
        PATH=/mnt/shared/vadtune-env/bin:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin bash -c "cd '$REPOSITORY' && $*"
}

crash() {  # crash HOST: every process of it dies at once, and nobody answers at its address
    kill -9 "$(init_of "$1")" "$(cat "$LAB/$1/pid")"
    rm "$LAB/$1/pid"
}

down() {
    [ -d "$LAB" ] || return 0
    local host pid
    for host in $HOSTS; do
        host=${host%:*}
        if pid=$(cat "$LAB/$host/pid" 2> /dev/null); then
            kill -9 "$(init_of "$host")" "$pid" 2> /dev/null || true
        fi
    done
    sleep 1
    for host in $HOSTS; do
        host=${host%:*}
        ip netns del "$(cat "$LAB/prefix")-$host" 2> /dev/null || true
        umount -R -l "$LAB/$host/root" 2> /dev/null || true
    done
    umount -R -l "$LAB/base/root" 2> /dev/null || true
    umount -l "$LAB" 2> /dev/null || true
    rmdir "$LAB"
}

init_of() {  # the host's process 1, as the machine numbers it
    pgrep -P "$(cat "$LAB/$1/pid" 2> /dev/null)" 2> /dev/null || { echo "$1 is not up" >&2; exit 1; }
}

install_sshd() {
    if [ -x /usr/sbin/sshd ] && command -v rsync > /dev/null; then return; fi
    local root=$LAB/base/root
    mount -t overlay overlay -o "lowerdir=/,upperdir=$LAB/base/upper,workdir=$LAB/base/work" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --make-rslave "$root/dev"
    printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"  # installed, but not started
    chmod +x "$root/usr/sbin/policy-rc.d"
    chroot "$root" sh -c 'apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -yqq \
        --no-install-recommends openssh-server rsync' > "$LAB/apt.log" 2>&1 || { cat "$LAB/apt.log" >&2; exit 1; }
    umount -R -l "$root"
}

make_environment() {  # what cluster/onprem.yaml would install: here it borrows the packages of $1
    local environment=$LAB/shared/vadtune-env packages
    "$1" -m venv --without-pip "$environment"
    packages=$("$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$packages" "$REPOSITORY" > "$environment/lib/$(basename "$(dirname "$packages")")/site-packages/lab.pth"
    printf '#!/mnt/shared/vadtune-env/bin/python\nfrom ray.scripts.scripts import main\nmain()\n' > "$environment/bin/ray"
    chmod +x "$environment/bin/ray"
    printf '%s\n' "$REPOSITORY" "$(dirname "$packages")" > "$LAB/visible"
    "$1" -c 'import sys; print(sys.base_prefix)' | grep -v '^/usr' >> "$LAB/visible" || true
}

make_network() {  # a bridge on the laptop, a cable from it to each other host
    local prefix host name address
    prefix=$(cat "$LAB/prefix")
    for host in $HOSTS; do
        name=${host%:*} address=${host#*:}
        ip netns add "$prefix-$name"
        ip -n "$prefix-$name" link set lo up
        if [ "$name" = laptop ]; then
            ip -n "$prefix-$name" link add bridge0 type bridge
            ip -n "$prefix-$name" addr add "$address/24" dev bridge0
            ip -n "$prefix-$name" link set bridge0 up
        else
            ip -n "$prefix-laptop" link add "v$name" type veth peer name eth0 netns "$prefix-$name"
            ip -n "$prefix-laptop" link set "v$name" master bridge0 up
            ip -n "$prefix-$name" addr add "$address/24" dev eth0
            ip -n "$prefix-$name" link set eth0 up
            ip -n "$prefix-$name" route add default via 10.200.0.1
        fi
    done
}

start_host() {  # its /root is its own: what lies in the machine's home folder is not for it
    local name=$1 root=$LAB/$1/root home=$LAB/$1/home
    mkdir -p "$LAB/$name"/{upper,work,root} "$home/.ssh"
    mount -t overlay overlay -o "lowerdir=$LAB/base/upper:/,upperdir=$LAB/$name/upper,workdir=$LAB/$name/work" "$root"
    rm -rf "$root/tmp/ray"
    mkdir -p "$root/mnt/shared"
    cp /etc/skel/.bashrc /etc/skel/.profile "$home"
    cp "$LAB/key.pub" "$home/.ssh/authorized_keys"
    chmod -R go= "$home/.ssh"
    cat > "$LAB/$name/init.sh" << INIT
set -e
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o size=4G shm "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount --bind "$root/dev/pts/ptmx" "$root/dev/ptmx"
mount -t tmpfs run "$root/run"
mkdir "$root/run/sshd"
mount --bind "$LAB/shared" "$root/mnt/shared"
exec 3< "$LAB/visible"
mount --bind "$home" "$root/root"
while read -r folder <&3; do
    mkdir -p "$root\$folder"
    mount --bind "\$folder" "$root\$folder"
    mount -o remount,bind,ro "$root\$folder"
done
exec 3<&-
hostname $name
printf '127.0.0.1 localhost $name\n' > "$root/etc/hosts"
exec chroot "$root" /usr/sbin/sshd -D -e -o UsePAM=no -o PermitRootLogin=prohibit-password -o StrictModes=no \
    -o MaxStartups=50
INIT
    setsid ip netns exec "$(cat "$LAB/prefix")-$name" unshare --mount --pid --uts --ipc --fork --kill-child \
        bash "$LAB/$name/init.sh" > "$LAB/$name/log" 2>&1 < /dev/null &
    echo $! > "$LAB/$name/pid"
}

wait_for_sshd() {
    for _ in $(seq 100); do
        if grep -q 'Server listening' "$LAB/$1/log"; then return; fi
        sleep 0.1
    done
    echo "$1 did not start:" >&2
    cat "$LAB/$1/log" >&2
    exit 1
}

case ${1:-} in
    up | run | crash | down) "$@" ;;
    *) sed -n '2,8p' "$0" >&2; exit 2 ;;
esac
