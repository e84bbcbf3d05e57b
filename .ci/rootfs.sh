# shellcheck shell=bash
# Root file systems for images where no registry of images can be reached: Debian packages only.

# rootfs DIR PACKAGE...: a minimal Debian in DIR with the packages. The bare system is made once and kept as an archive,
# because both images start from it.
rootfs() {
    local dir=$1 archive="${CACHE}/${SUITE}-minbase.tar"
    shift
    packages debootstrap ca-certificates
    mkdir -p "$CACHE"
    if [[ ! -e $archive ]]; then
        local bare
        bare=$(mktemp -d "${CACHE}/bare.XXXXXX")
        debootstrap --variant=minbase "$SUITE" "$bare" "$MIRROR" >"${CACHE}/debootstrap.log" 2>&1 \
            || { tail -n 30 "${CACHE}/debootstrap.log" >&2; die "debootstrap failed"; }
        # A name of its own first: an interrupted run must not leave half an archive behind.
        tar -C "$bare" -cf "${archive}.part" .
        mv "${archive}.part" "$archive"
        rm -rf "$bare"
    fi
    mkdir -p "$dir"
    chmod 0755 "$(dirname "$dir")"
    tar -C "$dir" -xf "$archive"
    # Without this, a package's installation would try to start services.
    printf '#!/bin/sh\nexit 101\n' >"${dir}/usr/sbin/policy-rc.d"
    chmod +x "${dir}/usr/sbin/policy-rc.d"
    # Manual pages and documentation aren't wanted in an image; some packages need the directory of man pages to be there.
    printf 'path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n' \
        >"${dir}/etc/dpkg/dpkg.cfg.d/nodocs"
    mkdir -p "${dir}/usr/share/man/man1"
    cp /etc/resolv.conf "${dir}/etc/resolv.conf"
    in_rootfs "$dir" apt-get -o Acquire::Retries=3 update -qq
    in_rootfs "$dir" env DEBIAN_FRONTEND=noninteractive \
        apt-get -o Acquire::Retries=3 -o Dpkg::Options::=--force-unsafe-io install -y -qq --no-install-recommends "$@"
    in_rootfs "$dir" apt-get clean
    rm -rf "${dir}"/var/lib/apt/lists/* "${dir}/usr/sbin/policy-rc.d" "${dir}/etc/resolv.conf"
}

in_rootfs() {
    local dir=$1
    shift
    # Java's installation wants /proc; in a mount namespace of its own it is gone with the command, however that ends.
    # shellcheck disable=SC2016
    unshare --mount sh -c 'mount -t proc proc "$1/proc" && exec chroot "$@"' sh "$dir" "$@" >>"${CACHE}/rootfs.log" 2>&1 \
        || { tail -n 30 "${CACHE}/rootfs.log" >&2; die "failed in the root file system: $*"; }
}
