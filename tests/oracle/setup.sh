#!/bin/sh
# Make an environment that runs mmsegmentation 1.2.2 on a CPU: the reference of tests/golden.
#
#     sh tests/oracle/setup.sh DIR
#     DIR/bin/python tests/golden/make_heads.py
#
# DIR becomes a virtual environment of its own. This project does not depend on it: the tests read
# the files that were made there. A second run installs nothing. PYTHON chooses the interpreter,
# TORCH_INDEX an index of wheels for torch alone, such as one with small CPU builds.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: sh $0 DIR" >&2
    exit 2
fi
dir=$1
python=${PYTHON:-python3}

if command -v uv >/dev/null 2>&1; then
    [ -x "$dir/bin/python" ] || uv venv --quiet --python "$python" "$dir"
    install() { uv pip install --quiet --python "$dir/bin/python" "$@"; }
else
    [ -x "$dir/bin/python" ] || "$python" -m venv "$dir"
    install() { "$dir/bin/python" -m pip install --quiet "$@"; }
fi

# mmengine looks for its config files by pkg_resources, which setuptools 81 dropped.
install torch ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
install "setuptools<81" mmengine==0.10.7 mmcv-lite==2.1.0 ftfy regex prettytable scipy matplotlib \
    pillow opencv-python-headless
install --no-deps mmsegmentation==1.2.2  # its own list asks for a compiled mmcv

# mmsegmentation imports the compiled operations at its start. SETR calls none of them.
site=$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cat >"$site/mmcv/_ext.py" <<'EOF'
"""Stands in for mmcv's compiled operations; a call of one raises."""


def __getattr__(name):
    def operation(*args, **kwargs):
        raise NotImplementedError(f"mmcv-lite has no compiled operation {name}")

    return operation
EOF

"$dir/bin/python" -W ignore -c '
import mmseg, torch
from mmseg.utils import register_all_modules
register_all_modules()
print("mmsegmentation", mmseg.__version__, "on torch", torch.__version__)'
