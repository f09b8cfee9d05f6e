#!/bin/sh
# EleutherAI's lm-evaluation-harness against a model behind CORTEX, ten questions of a task.
#
#     pip install 'lm-eval[api]'
#     sh examples/lm_eval.sh                      # or: lm_eval.sh piqa 50
#
# Tasks that compare likelihoods (arc_easy, piqa, hellaswag, …) need the prompt's own
# log-probabilities, which /v1/completions gives with `echo`. The tokenizer is downloaded from
# Hugging Face unless MNEMOS_TOKENIZER names a folder. MNEMOS_CORTEX_URL, MNEMOS_MODEL and
# MNEMOS_API_KEY are heeded.
set -eu

cortex="${MNEMOS_CORTEX_URL:-http://127.0.0.1:8080}"
model="${MNEMOS_MODEL:-smollm2:135m-instruct}"
tokenizer="${MNEMOS_TOKENIZER:-HuggingFaceTB/SmolLM2-135M-Instruct}"
task="${1:-arc_easy}"
shift $(($# > 0 ? 1 : 0))
limit="${1:-10}"
shift $(($# > 0 ? 1 : 0))

OPENAI_API_KEY="${MNEMOS_API_KEY:-unused}" lm_eval \
    --model local-completions \
    --model_args "model=$model,base_url=$cortex/v1/completions,tokenizer=$tokenizer,num_concurrent=8,max_retries=3" \
    --tasks "$task" --limit "$limit" "$@"
