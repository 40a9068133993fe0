"""Every barrier of the kernels is needed, and a missing one is detected: each is skipped in
turn, and a test must fail.

barriers.py TEST...: programs that run kernels under emulation (tests/cuda/emu/emu.h:
EMU_LIST_BARRIERS, EMU_SKIP_BARRIER).
"""

import os
import pathlib
import subprocess
import sys
import tempfile


def run(test, **environment):
    return subprocess.run([test], env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          timeout=600, check=False).returncode


def main():
    kept, tried = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for test in sys.argv[1:]:
            listed = pathlib.Path(folder, "barriers")
            listed.unlink(missing_ok=True)
            if run(test, EMU_LIST_BARRIERS=str(listed)):
                print(f"{test} fails as it is")
                return 1
            places = listed.read_text().splitlines()
            for place in places:
                tried += 1
                code = run(test, EMU_SKIP_BARRIER=place)
                print(f"{pathlib.Path(test).name}: without {'/'.join(place.split('/')[-3:])}: {'not noticed' if code == 0 else 'noticed'}")
                if code == 0:
                    kept.append(place)
    print(f"{tried} barriers left out in turn, {tried - len(kept)} noticed")
    return 1 if kept or tried < 10 else 0


if __name__ == "__main__":
    sys.exit(main())
