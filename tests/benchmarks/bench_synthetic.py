"""How fast synthetic records are made on one core: `OMP_NUM_THREADS=1 python tests/benchmarks/bench_synthetic.py`.

Records of 10 s, 12 leads, 500 Hz: without a diagnosis, all diagnoses in turn, and each on its own. Medians of CPU time,
which counts what this process does and not what else the machine does, and of the time on the clock.
"""

import argparse
import statistics
import time

from dataset_scripts.synthesis import DIAGNOSES, synthesize_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=510, help="records a case")
    count = parser.parse_args().records
    cases = {"no diagnosis": [()], "all in turn": [(name,) for name in DIAGNOSES]}
    cases |= {name: [(name,)] for name in DIAGNOSES}
    print(f"{'case':32} {'ms, CPU':>9} {'ms, clock':>10} {'records a CPU second':>21}")
    for name, diagnoses in cases.items():
        cpu, clock = seconds_a_record(diagnoses, count)
        print(f"{name:32} {1000 * cpu:9.3f} {1000 * clock:10.3f} {1 / cpu:21.0f}")


def seconds_a_record(diagnoses: list[tuple[str, ...]], count: int) -> tuple[float, float]:
    cpu, clock = [], []
    for index in range(count):
        start = time.process_time(), time.perf_counter()
        synthesize_record(0, index, diagnoses=diagnoses[index % len(diagnoses)])
        cpu.append(time.process_time() - start[0])
        clock.append(time.perf_counter() - start[1])
    return statistics.median(cpu), statistics.median(clock)


if __name__ == "__main__":
    main()
