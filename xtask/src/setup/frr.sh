#!/bin/sh
# Unpacks the FRR of another Debian release, with all it wants, and makes scripts that start its daemons.
#
#   sh frr.sh RELEASE DIRECTORY
#
# Nothing is installed: the packages' own scripts never run, and the machine's own files stay as they are. apt checks the
# archive's signature, with lists of its own.
set -eu

release=$1 directory=$2
draft=$directory.draft
rm -rf "$draft"
mkdir -p "$draft/apt/lists/partial" "$draft/apt/archives/partial" "$draft/files" "$draft/programs"
trap 'rm -rf "$draft"' EXIT
: > "$draft/apt/status"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] http://deb.debian.org/debian $release main" > "$draft/apt/sources.list"

apt() {
    apt-get -q -y -o Dir::State="$draft/apt" -o Dir::State::status="$draft/apt/status" -o Dir::Cache="$draft/apt" \
        -o Dir::Etc::sourcelist="$draft/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
}
apt update
apt --no-install-recommends --download-only install frr
# One script, which runs with this machine's Python.
(cd "$draft/apt/archives" && apt download frr-pythontools)

# Everything below /usr, as on any machine of today.
mkdir "$draft/files/usr"
for folder in bin lib lib64 sbin; do
    mkdir "$draft/files/usr/$folder"
    ln -s "usr/$folder" "$draft/files/$folder"
done
for package in "$draft"/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$draft/files"
done
rm -rf "$draft/apt"

# A daemon finds its libraries and YANG models at the paths it was built with: its script lets it, and nobody else, see the
# release's own /usr. /var/lib/frr is where FRR keeps state from 10.4 on; it goes with the daemon.
for program in zebra bgpd bfdd staticd; do
    cat > "$draft/programs/$program" << END
#!/bin/sh
exec unshare --mount --propagation private /bin/sh -euc '
    mount -t tmpfs none /var/lib
    mkdir /var/lib/frr
    mount --bind "$directory/files/usr" /usr
    exec /usr/lib/frr/$program "\$@"' $program "\$@"
END
    chmod +x "$draft/programs/$program"
done

# vtysh wants its libraries only: told so by the loader, it starts as fast as if it were installed. frr-reload.py finds it here.
loader=$(cd "$draft" && ls files/usr/lib/*/ld-linux-*.so.* | head -n 1)
libraries=$directory/${loader%/*}
cat > "$draft/programs/vtysh" << END
#!/bin/sh
exec "$directory/$loader" --library-path "$libraries:$libraries/frr" "$directory/files/usr/bin/vtysh" "\$@"
END
chmod +x "$draft/programs/vtysh"
cp "$draft/files/usr/lib/frr/frr-reload.py" "$draft/programs/"

rm -rf "$directory"
mv "$draft" "$directory"
trap - EXIT
# Without this file it does not count as there.
"$directory/programs/bgpd" --version | sed -n 's/^bgpd version //p' > "$directory/version.draft"
[ -s "$directory/version.draft" ] || { echo "the bgpd of $release does not run" >&2; exit 1; }
mv "$directory/version.draft" "$directory/version"
