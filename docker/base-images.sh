#!/usr/bin/env bash
# Makes the base images of docker/Dockerfile on a host that reaches a Debian mirror but no container registry:
#
#   sudo docker/base-images.sh            orpo-build-base and orpo-runtime-base, with this host's Rust toolchain
#
# MIRROR names another Debian mirror than debootstrap's own, SUITE another release. Afterwards:
#
#   docker build -f docker/Dockerfile -t orpo \
#     --build-arg BUILD_IMAGE=orpo-build-base --build-arg RUNTIME_IMAGE=orpo-runtime-base .
set -euo pipefail

suite=${SUITE:-bookworm}
for tool in debootstrap docker rustc; do
    command -v "$tool" >/dev/null || { echo "error: \`$tool\` is not installed; install it and start again" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "error: debootstrap needs root; start this with sudo" >&2; exit 2; }

root=$(mktemp -d)
clean_up() {
    # debootstrap may leave these mounted.
    umount "$root/proc" "$root/sys" 2>/dev/null || true
    rm -rf --one-file-system "$root"
}
trap clean_up EXIT

# The engine writes the files of /etc that are left out; the rest is what slim images leave out, licences stay.
import() {
    local name=$1
    shift
    tar -C "$root" --one-file-system --numeric-owner -c \
        --exclude=./etc/resolv.conf --exclude=./etc/hostname --exclude='./var/cache/apt/*' \
        --exclude='./var/lib/apt/lists/*' --exclude='./var/log/*' --exclude='./tmp/*' \
        --exclude='./usr/share/man/*' --exclude='./usr/share/info/*' --exclude='./usr/share/locale/*' \
        --exclude='./usr/share/doc/*/[!c]*' "$@" . | docker import --message "debootstrap $suite" - "$name" >/dev/null
    echo "$name: $(docker image inspect --format '{{.Size}}' "$name" | numfmt --to=si)B"
}

debootstrap --variant=minbase "$suite" "$root" ${MIRROR:+"$MIRROR"} >&2
import orpo-runtime-base

# The compiler for crates with C and C++ in them, and the toolchain that `cargo` is on this host.
chroot "$root" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends ca-certificates g++ libc6-dev make >&2
tar -C "$(rustc --print sysroot)" -c bin lib libexec | tar -C "$root/usr/local" -x --no-same-owner
# Certificates that this host trusts beyond Debian's: without them a build behind a proxy of the site finds no crates.
if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
    cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
    chroot "$root" update-ca-certificates >&2
fi
import orpo-build-base
