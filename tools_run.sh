timeout ${T:-120} python tools/wine.py run -- python.exe -m pytest -q --timeout ${TT:-15} -p no:cacheprovider "$@" 2>&1 | cut -c1-180
