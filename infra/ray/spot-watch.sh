#!/usr/bin/env bash
# Tells Ray that a spot node is about to be taken away: nothing new begins there, and its end uses up no trial's retries.
# Started in the background by the start commands of aws.yaml and gcp.yaml; one runs a node. Neither cloud tells Ray by itself.
#   spot-watch.sh aws    EC2 gives its notice 2 minutes ahead
#   spot-watch.sh gcp    Compute Engine 30 seconds ahead
set -uo pipefail

cloud=${1:?aws or gcp}
interval=${SPOT_WATCH_INTERVAL:-2}
metadata=${SPOT_WATCH_METADATA:-}
fetch() { curl --silent --fail --max-time 2 "$@"; }

case $cloud in
  aws)
    metadata=${metadata:-http://169.254.169.254}
    ahead=100
    taken() {
      local token
      token=$(fetch -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" "$metadata/latest/api/token") || return 1
      fetch -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action"
    }
    ;;
  gcp)
    metadata=${metadata:-http://metadata.google.internal}
    ahead=20
    taken() {
      [ "$(fetch -H "Metadata-Flavor: Google" "$metadata/computeMetadata/v1/instance/preempted")" = TRUE ]
    }
    ;;
  *)
    echo "spot-watch.sh: $cloud is neither aws nor gcp" >&2
    exit 2
    ;;
esac

exec 9>"${TMPDIR:-/tmp}/spot-watch.lock"
flock --nonblock 9 || exit 0 # a second `ray up` starts a second one

until taken; do sleep "$interval"; done
echo "$(date -u +%FT%TZ) $cloud takes this node in about $ahead s"
exec ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "$cloud takes this spot node" \
  --deadline-remaining-seconds "$ahead"
