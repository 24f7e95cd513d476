#!/bin/bash
# Starts two pods, one after the other, by containerd and runc on a node that is a network namespace made here, joined by
# the plugins in $BIN with the configuration $CONFLIST. Prints what each pod sees; leaves nothing behind.
set -euo pipefail
node=fwtest-containerd-$$
work=$(mktemp -d)
daemon=
finish() {
  [ -z "$daemon" ] || { kill "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; }
  ip netns del "$node" 2>/dev/null || true
  for at in $(awk -v w="$work" '$2 ~ "^"w {print $2}' /proc/mounts | sort -r); do umount -l "$at"; done
  rm -rf "$work"
}
trap finish EXIT
ip netns add "$node"
ip -n "$node" link set lo up

# An image of busybox, in the form `docker save` has.
mkdir -p "$work/image/root/bin"
cp "$(command -v busybox)" "$work/image/root/bin/busybox"
for applet in sh ip ping; do ln -s busybox "$work/image/root/bin/$applet"; done
tar -C "$work/image/root" -cf "$work/image/layer.tar" .
sum=$(sha256sum "$work/image/layer.tar" | cut -d' ' -f1)
machine=$(dpkg --print-architecture 2>/dev/null || echo amd64)
echo "{\"architecture\":\"$machine\",\"os\":\"linux\",\"config\":{},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$sum\"]}}" > "$work/image/config.json"
echo '[{"Config":"config.json","RepoTags":["docker.io/library/pod:1"],"Layers":["layer.tar"]}]' > "$work/image/manifest.json"
tar -C "$work/image" -cf "$work/image.tar" manifest.json config.json layer.tar

# A daemon of our own: its files and its socket are below $work, its network is the node's.
cat > "$work/config.toml" <<TOML
version = 2
root = "$work/root"
state = "$work/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$work/containerd.sock"
TOML
nsenter --net="/run/netns/$node" containerd --config "$work/config.toml" > "$work/log" 2>&1 &
daemon=$!
for _ in $(seq 100); do [ -S "$work/containerd.sock" ] && break; sleep 0.1; done
export CONTAINERD_ADDRESS=$work/containerd.sock
ctr image import "$work/image.tar" >&2 || { cat "$work/log" >&2; exit 1; }

# The client calls the plugins; it looks in /opt/cni/bin and /etc/cni/net.d, which are ours in a mount namespace of its own.
mkdir -p "$work/opt/cni" "$work/etc-cni/net.d" "$work/over"
ln -s "$BIN" "$work/opt/cni/bin"
cp "$CONFLIST" "$work/etc-cni/net.d/10-pods.conflist"
cat > "$work/client" <<CLIENT
set -e
mkdir -p /opt
mount --bind "$work/opt" /opt
mount -t tmpfs none "$work/over"
mkdir "$work/over/upper" "$work/over/work"
mount -t overlay none -o lowerdir=/etc,upperdir="$work/over/upper",workdir="$work/over/work" /etc
mkdir -p /etc/cni
mount --bind "$work/etc-cni" /etc/cni
exec ctr run --cni --rm --snapshotter native docker.io/library/pod:1 "\$1" /bin/sh -c "\$2"
CLIENT
for pod in pod-1 pod-2; do
  echo "== $pod"
  nsenter --net="/run/netns/$node" unshare --mount bash "$work/client" "$pod" \
    'ip -4 -o addr show dev eth0; ip route; ping -c 1 -W 3 10.89.0.1; ip -o link show lo' || { cat "$work/log" >&2; exit 1; }
  echo "== left after $pod"
  ip -n "$node" -o link show type veth
  nsenter --net="/run/netns/$node" nft list ruleset
done
