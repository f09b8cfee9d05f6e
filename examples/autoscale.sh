#!/usr/bin/env bash
# Keeps as many workers as CORTEX's queue wants: calls a command of yours with their number.
#
#   examples/autoscale.sh 'runtime=vllm&slots=8' gcloud compute instance-groups managed resize neuron --size
#
# The first word describes one worker (docs/autoscaling.md), the rest is the command. MNEMOS_CORTEX_URL and
# MNEMOS_API_KEY say where CORTEX is; MIN_WORKERS and MAX_WORKERS bound the number. More workers are
# asked for at once, fewer after SHRINK_SECONDS of wanting fewer. ROUNDS ends it after so many looks.
set -euo pipefail

kind=${1:?the kind of worker, as runtime=vllm&slots=8}
shift
[ $# -gt 0 ] || { echo 'autoscale: the command that sets the number of workers is missing' >&2; exit 64; }
cortex=${MNEMOS_CORTEX_URL:-http://127.0.0.1:8080}
least=${MIN_WORKERS:-0} most=${MAX_WORKERS:-10}
every=${EVERY_SECONDS:-15} patience=${SHRINK_SECONDS:-300} rounds=${ROUNDS:-0}
header=()
[ -z "${MNEMOS_API_KEY:-}" ] || header=(--header "authorization: Bearer $MNEMOS_API_KEY")

wanted() {
  curl --fail --silent --show-error --max-time 10 "${header[@]}" "$cortex/api/v1/demand?$kind" |
    sed -n 's/^{"workers_wanted":\([0-9]*\),.*/\1/p'
}

has='' fewer_since=$SECONDS looks=0
while :; do
  if want=$(wanted) && [ -n "$want" ]; then
    want=$(( want < least ? least : want > most ? most : want ))
    if [ -z "$has" ] || [ "$want" -ge "$has" ]; then
      fewer_since=$SECONDS
    fi
    if [ -z "$has" ] || [ "$want" -gt "$has" ] ||
      { [ "$want" -lt "$has" ] && [ $(( SECONDS - fewer_since )) -ge "$patience" ]; }; then
      if "$@" "$want"; then
        has=$want
      else
        echo "autoscale: the command failed; it is called again in $every s" >&2
      fi
    fi
  else
    echo "autoscale: CORTEX does not answer; the number of workers stays" >&2
  fi
  looks=$(( looks + 1 ))
  [ "$looks" -ne "$rounds" ] || break
  sleep "$every"
done
