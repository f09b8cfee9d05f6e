#!/bin/sh
# Both APIs with nothing but curl: a chat, a stream, and a job that outlives its client.
#
#     sh examples/curl.sh "Why is the sky blue?"
#
# MNEMOS_CORTEX_URL, MNEMOS_MODEL and MNEMOS_API_KEY are heeded. The question must hold no quotes.
set -eu

cortex="${MNEMOS_CORTEX_URL:-http://127.0.0.1:8080}"
model="${MNEMOS_MODEL:-smollm2:135m-instruct}"
question="${1:-Why is the sky blue?}"

ask() {
    curl --silent --show-error --fail --no-buffer "$cortex$1" \
        --header "authorization: Bearer ${MNEMOS_API_KEY:-unused}" \
        --header "content-type: application/json" \
        ${2:+--data "$2"}
    echo
}

messages="[{\"role\": \"user\", \"content\": \"$question\"}]"

echo "--- an answer at once"
ask /v1/chat/completions "{\"model\": \"$model\", \"messages\": $messages, \"max_tokens\": 40}"

echo "--- the same, token by token"
ask /v1/chat/completions \
    "{\"model\": \"$model\", \"messages\": $messages, \"max_tokens\": 40, \"stream\": true}"

echo "--- a job: it is durable from here on, and anybody can read its answer"
family="${model%%:*}"
version="${model#"$family"}"
job=$(ask /api/v1/jobs "{
    \"model\": {\"family\": \"$family\"${version:+, \"version\": \"${version#:}\"}},
    \"input\": {\"messages\": $messages, \"parameters\": {\"max_tokens\": 40, \"stream\": true}}
}" | sed 's/.*"job_id":"\([^"]*\)".*/\1/')
echo "$job"
ask "/api/v1/jobs/$job/stream"
ask "/api/v1/jobs/$job/result"
