#!/bin/sh
# Makes the base images of cosmolet's Dockerfile for a binary that this machine has compiled already, from the machine's own
# packages: nothing is fetched, and the C library is the one that the binary was linked with.
#
#   BUILDAH="buildah …" sh ready.sh BUILD_IMAGE FINAL_IMAGE
#
# BUILD_IMAGE: the three programs that the Dockerfile runs then, with their libraries.
# FINAL_IMAGE-ARCH: the C library, libgcc, one user. No shell.
set -eu

arch=$(dpkg --print-architecture)

build=$($BUILDAH from scratch)
final=$($BUILDAH from scratch)
trap '$BUILDAH rm "$build" "$final" > /dev/null' EXIT
root=$($BUILDAH mount "$build")
into=$($BUILDAH mount "$final")

mkdir -p "$root/bin" "$root/tmp" "$root/usr/local/cargo"
for program in sh install setcap; do
    file=$(PATH="$PATH:/usr/sbin:/sbin" command -v $program)
    cp -L "$file" "$root/bin/$program"
    for library in $(ldd "$file" | grep -o '/[^ ]*'); do
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done
done
$BUILDAH config --env PATH=/bin "$build"

# Not the directories: some are links here. No character sets, messages or lintian's files: nothing converts or translates.
dpkg -L "libc6:$arch" "libgcc-s1:$arch" | grep -v -e /gconv -e /usr/share/locale -e /usr/share/lintian | sort -u | while read -r file; do
    if [ -d "$file" ] || [ ! -e "$file" ]; then continue; fi
    echo "${file#/}"
done > "$into/.files"
tar -C / -c --no-recursion --files-from "$into/.files" | tar -C "$into" -x
rm "$into/.files"
mkdir -p "$into/etc"
printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' > "$into/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' > "$into/etc/group"
$BUILDAH config --arch "$arch" --os linux "$final"

$BUILDAH commit --quiet "$final" "$2-$arch"
$BUILDAH commit --quiet "$build" "$1"
