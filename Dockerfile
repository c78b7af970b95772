# syntax=docker/dockerfile:1
# cosmolet's image: the daemon, its file capabilities, and the C library it is linked with. No shell, no package manager.
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t REGISTRY/cosmolet:TAG .
#   cargo xtask image      # the same by buildah, without a registry: makes the two base images itself
#
# Everything is compiled on the building machine's own architecture, the daemon for the wanted one: no emulation. The
# build image must be a Debian or Ubuntu with Rust; the final one needs the C library and libgcc of the same or a newer release.
#
# A context may bring what was compiled before: prebuilt/cosmolet-ebpf.o, which saves the toolchain for eBPF, and beside it
# prebuilt/cosmolet, which saves Rust and the C compiler.

ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
ARG FINAL_IMAGE=gcr.io/distroless/cc-debian12:nonroot

# The eBPF object is the same for every architecture: the nodes are little-endian.
FROM --platform=$BUILDPLATFORM ${BUILD_IMAGE} AS ebpf
WORKDIR /src
COPY . .
RUN if [ -f prebuilt/cosmolet-ebpf.o ]; then \
      install -D -m 0644 prebuilt/cosmolet-ebpf.o target/ebpf/cosmolet-ebpf.o; \
    else \
      cargo xtask setup --yes --only ebpf && cargo xtask build-ebpf; \
    fi

FROM --platform=$BUILDPLATFORM ${BUILD_IMAGE} AS build
ARG TARGETARCH
WORKDIR /src
# A build image that has setcap has been made for this: it has a C compiler for the wanted architecture, too.
RUN if ! command -v setcap > /dev/null; then \
      case "${TARGETARCH:-$(dpkg --print-architecture)}" in \
        "$(dpkg --print-architecture)") cross= ;; \
        arm64) cross="gcc-aarch64-linux-gnu libc6-dev-arm64-cross" ;; \
        amd64) cross="gcc-x86-64-linux-gnu libc6-dev-amd64-cross" ;; \
        *) echo "no cross compiler is known for ${TARGETARCH}" >&2; exit 1 ;; \
      esac; \
      apt-get update -q && apt-get install -q -y --no-install-recommends libcap2-bin $cross \
      && rm -rf /var/lib/apt/lists/*; \
    fi
COPY . .
COPY --from=ebpf /src/target/ebpf/cosmolet-ebpf.o /ebpf/cosmolet-ebpf.o
# The caches may come from another checkout, whose files can be newer than ours: cargo goes by the time, so ours are
# touched. A non-root uid gets no capabilities from Kubernetes, so the binary carries those that the daemon needs.
RUN --mount=type=cache,id=cosmolet-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=cosmolet-target,target=/src/target \
    set -e; \
    if [ -f prebuilt/cosmolet ]; then \
      install -D -m 0755 prebuilt/cosmolet /out/cosmolet; \
    else \
      case "${TARGETARCH:-$(dpkg --print-architecture)}" in \
        amd64) target=x86_64-unknown-linux-gnu ;; \
        arm64) target=aarch64-unknown-linux-gnu ;; \
      esac; \
      if ! [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then rustup target add "$target"; fi; \
      if [ "$(rustc -vV | sed -n 's/^host: //p')" != "$target" ]; then \
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc; \
        export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc; \
      fi; \
      find cosmolet cosmolet-common -type f -exec touch {} +; \
      COSMOLET_EBPF_OBJECT=/ebpf/cosmolet-ebpf.o \
        cargo build --release --locked --package cosmolet --target "$target"; \
      install -D -m 0755 "target/$target/release/cosmolet" /out/cosmolet; \
    fi; \
    setcap cap_bpf,cap_perfmon,cap_net_admin+ep /out/cosmolet

# The platform is said though it is the default: buildah 1.28 would keep that of the stage before.
FROM --platform=$TARGETPLATFORM ${FINAL_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="cosmolet" \
      org.opencontainers.image.description="eBPF-assisted, health-aware VIP advertiser for bare-metal Kubernetes" \
      org.opencontainers.image.source="https://github.com/platformbuilds/cosmolet" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /out/cosmolet /usr/local/bin/cosmolet
COPY --from=build /src/LICENSE /usr/share/doc/cosmolet/LICENSE
USER 65532:65532
EXPOSE 9470
ENTRYPOINT ["/usr/local/bin/cosmolet"]
CMD ["run", "--config", "/etc/cosmolet/cosmolet.yaml"]
