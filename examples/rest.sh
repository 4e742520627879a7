#!/usr/bin/env bash
# A document over REST, from the upload to an answer: upload, preview, price, launch, cancel, resume, events, search.
# Needs curl, jq and a running service (`embedmill up`).
#
#     examples/rest.sh [FILE]
#
# EMBEDMILL_URL: where the service answers; EMBEDMILL_API_KEY: a key of role writer, where there are keys.
set -euo pipefail

file=${1:-$(dirname "$0")/documents/bzip2-manual.pdf}
api=${EMBEDMILL_URL:-http://127.0.0.1:8080}/api/v1
call=(curl --silent --show-error --fail-with-body)
if [ -n "${EMBEDMILL_API_KEY:-}" ]; then
    call+=(--header "Authorization: Bearer $EMBEDMILL_API_KEY")
fi

say() { printf '\n== %s\n' "$*"; }
job() { "${call[@]}" "$api/ingestion-jobs/$id"; }
# until_job CONDITION: waits until it holds of the job.
until_job() { until job | jq --exit-status "$1" >/dev/null; do sleep 0.2; done; }

say "Upload"
id=$("${call[@]}" --form "file=@$file" --form 'metadata={"shelf": "manuals"}' "$api/ingestion-jobs" |
    tee /dev/stderr | jq --raw-output .jobId)

say "Its preview: how it was cut, and what launching costs"
until_job '.status != "staged" and .status != "parsing"'
"${call[@]}" "$api/ingestion-jobs/$id/chunks?limit=1" | jq --compact-output '{totalChunks, estimate}'

say "Launch, and stop half way"
"${call[@]}" --request POST "$api/ingestion-jobs/$id/launch" | jq --compact-output '{status, progress}'
until_job '.progress > 0'
"${call[@]}" --request POST "$api/ingestion-jobs/$id/cancel" | jq --compact-output '{status, isResumable}'

say "What is kept, and what the rest costs"
sleep 1
job | jq --compact-output '{status, progress, embeddedChunks, cost}'
"${call[@]}" "$api/ingestion-jobs/$id/chunks?limit=1" | jq --compact-output .estimate

say "Resume, and follow the events to the end"
"${call[@]}" --request POST "$api/ingestion-jobs/$id/resume" | jq --compact-output '{status, progress}'
while IFS= read -r line; do
    case $line in
        "event: "*) event=${line#event: } ;;
        "data: "*)
            shown=$(jq --raw-output '"\(.status) \(.embeddedChunks)/\(.totalChunks)"' <<<"${line#data: }")
            echo "$event: $shown"
            case $shown in completed* | failed*) break ;; esac
            ;;
    esac
done < <("${call[@]}" --no-buffer "$api/ingestion-jobs/$id/events")
job | jq --compact-output '{status, progress, failedChunks, cost}'

say "Search"
"${call[@]}" --header 'Content-Type: application/json' --data '{"query": "my archive is damaged", "limit": 1}' \
    "$api/search" | jq '.passages[0] | {name, place, score, text: .text[:160]}'

say "Delete: the document goes with its job"
"${call[@]}" --request DELETE --write-out '%{http_code}\n' "$api/ingestion-jobs/$id"
