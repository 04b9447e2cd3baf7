from dataset_scripts.skipped import SkippedRecord, list_skipped


def test_the_list_of_records_left_out_is_short_and_counts_all():
    skipped = [SkippedRecord(f"r{place}", "no signal" if place % 3 else "empty", "what and why") for place in range(30)]
    lines = list_skipped(skipped, most=4)
    assert lines[:2] == ["    20 x no signal", "    10 x empty"]
    assert lines[2:] == [f"  r{place}: what and why" for place in range(4)] + ["  ... and 26 more"]
