#!/bin/sh
# Unpacks what the benches put cosmolet beside, as this machine's own release has it.
#
#   sh peers.sh DIRECTORY PACKAGE...
#
# Nothing is installed: no user is made and no service comes with it. apt checks the archive's signature.
set -eu

directory=$1
shift
draft=$directory.draft
rm -rf "$draft"
mkdir -p "$draft/archives" "$draft/files"
trap 'rm -rf "$draft"' EXIT
cd "$draft/archives"
apt-get -q -o APT::Sandbox::User=root download "$@"
for package in *.deb; do
    dpkg-deb --extract "$package" "$draft/files"
done
rm -rf "$directory"
mv "$draft/files" "$directory"
