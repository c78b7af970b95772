#!/bin/sh
# Makes the base images of cosmolet's Dockerfile from Debian's packages alone, for machines without a registry.
#
#   BUILDAH="buildah …" sh bases.sh BUILD_IMAGE FINAL_IMAGE
#
# BUILD_IMAGE: a minimal Debian with Rust, and with a C compiler and Rust's library for amd64 and arm64.
# FINAL_IMAGE-amd64 and FINAL_IMAGE-arm64: the C library, libgcc, the authorities that Debian trusts, one user. No shell.
set -eu

suite=bookworm
archive=http://deb.debian.org
case $(dpkg --print-architecture) in
    amd64) other=arm64 cross=gcc-aarch64-linux-gnu,libc6-dev-arm64-cross ;;
    arm64) other=amd64 cross=gcc-x86-64-linux-gnu,libc6-dev-amd64-cross ;;
    *) echo "bases are made on amd64 and arm64 only" >&2; exit 1 ;;
esac

container=$($BUILDAH from scratch)
trap '$BUILDAH rm "$container" > /dev/null' EXIT
root=$($BUILDAH mount "$container")

# Nobody mourns a base that a crash has damaged: without this, dpkg waits for the disk at every file.
mkdir -p "$root/etc/dpkg/dpkg.cfg.d"
echo force-unsafe-io > "$root/etc/dpkg/dpkg.cfg.d/unsafe-io"
debootstrap --variant=minbase --include="gcc,libc6-dev,libcap2-bin,ca-certificates,$cross" "$suite" "$root" "$archive/debian"
cat > "$root/etc/apt/sources.list" << END
deb $archive/debian $suite main
deb $archive/debian-security $suite-security main
END
cp /etc/resolv.conf "$root/etc/resolv.conf"
# rustc-web is the Rust that Debian keeps new enough for browsers; its library for the other architecture is unpacked
# only, as its dependencies there are programs that this machine could not run.
chroot "$root" sh -eu -c "
    export DEBIAN_FRONTEND=noninteractive
    dpkg --add-architecture $other
    apt-get update -q
    apt-get install -q -y --no-install-recommends rustc-web cargo-web
    mkdir /debs && cd /debs
    apt-get download -q libstd-rust-web-dev:$other libc6:amd64 libgcc-s1:amd64 libc6:arm64 libgcc-s1:arm64
    dpkg -x libstd-rust-web-dev_*.deb /
    apt-get clean"

for arch in amd64 arm64; do
    final=$($BUILDAH from scratch)
    into=$($BUILDAH mount "$final")
    for package in libc6 libgcc-s1; do
        dpkg -x "$root"/debs/${package}_*_$arch.deb "$into"
    done
    # Character sets, locale messages and lintian's files: nothing here converts or translates.
    rm -rf "$into"/usr/lib/*/gconv "$into/usr/share/locale" "$into/usr/share/lintian"
    mkdir -p "$into/etc/ssl/certs"
    cp "$root/etc/ssl/certs/ca-certificates.crt" "$into/etc/ssl/certs/"
    printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' > "$into/etc/passwd"
    printf 'root:x:0:\nnonroot:x:65532:\n' > "$into/etc/group"
    $BUILDAH config --arch "$arch" --os linux "$final"
    $BUILDAH commit --quiet --rm "$final" "$2-$arch"
done

rm -rf "$root/debs" "$root"/var/lib/apt/lists/*
# While it builds, it trusts whom this machine trusts: a proxy's authority, for one. Nothing of it gets into the final image.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
# Where the registry's cache of the Dockerfile is mounted, as in Docker's own image of Rust.
$BUILDAH config --env CARGO_HOME=/usr/local/cargo "$container"
$BUILDAH commit --quiet "$container" "$1"
