#!/usr/bin/env bash
# Hold our scripts against each contract on a Windows CPython under Wine:
#     [CONTRACTS="hook functions"] tests/windows/run.sh FOLDER [options of conformance.py]
# FOLDER keeps what python.sh makes.  Where that cannot be had: the reason, and exit 0.
set -euo pipefail
folder=$(realpath -m "$1") && shift
cd "$(dirname "$0")/../.."
if [ ! -x "$folder/python" ]; then
    code=0
    tests/windows/python.sh "$folder" || code=$?
    [ $code != 77 ] || exit 0
    [ $code = 0 ] || exit $code
fi
# modes are made up there, links not seen, and the state has a folder of its own
links=(--lacks symlinks)
failed=0
kit() {
    echo | "$folder/python" tests/contract/conformance.py --contract "$@" 2>&1 | cat ||
        failed=1
}
for contract in ${CONTRACTS:-send_event hook functions}; do
    case $contract in
        send_event) kit send_event "${links[@]}" --lacks file-modes --lacks xdg "$@" \
            -- python -IS send_event.py ;;
        hook) kit hook "$@" -- python tests/contract/reference_hook.py ;;
        functions) kit functions "${links[@]}" "$@" \
            -- python tests/contract/reference_functions.py ;;
    esac
done
exit $failed
