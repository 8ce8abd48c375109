"""A tiny EgoExoLearn as downloaded: made-up rows in the real structure, traps included."""

from __future__ import annotations

from pathlib import Path

EGO, EXO = "bee00001-ac78-11ee-819f-80615f12b59e", "2c000001-ac78-11ee-819f-80615f12b59e"  # the suffix is the same
HEADER = "video_uid,annotation_id,subset,view,scene,start_sec,end_sec"
CAPTIONS = "narration_en,narration_en_hand_prompt,narration_en_no_hand_prompt"
ROWS = [
    f'{EGO},aaaaaaa1,train,ego,kitchen,12.5,28.700000000000003,"Use your left hand to hold the pot, and stir.",'
    '"The left hand holds the pot, and the right hand stirs.","Use your hand to hold the pot, and stir."',
    f"{EGO},aaaaaaa2,val,ego,lab,30.0,30.1,Press the button with your right hand.,The right hand presses the button.,"
    "Press the button.",
    f"{EXO},aaaaaaa3,train,exo,kitchen,1.0,4.2,Stir with your right hand.,The right hand stirs.,Stir.",
    f"{EGO},aaaaaaa4,test,ego,kitchen,31.0,32.0,Stir with your right hand.,The right hand stirs.,Stir.",
    f"{EGO},aaaaaaa5,train,ego,kitchen,33.0,34.0,Take the cup.,The hand takes the cup.,",
    f"{EGO},aaaaaaa6,train,ego,kitchen,40.0,39.0,Take the cup.,The hand takes the cup.,Take the cup.",
]


def write_egoexolearn(root: Path) -> None:
    """Writes the fine captions of train and val, and the test table without captions; the videos are absent."""
    folder = root / "annotations"
    folder.mkdir(parents=True)
    table = "\r\n".join([f"{HEADER},{CAPTIONS}", *ROWS])
    (folder / "fine_annotation_trainval_en.csv").write_text(f"{table}\r\n", newline="")
    (folder / "fine_annotation_test.csv").write_text(f"{HEADER}\n{EGO},bbbbbbb1,test,ego,kitchen,240.6,241.8\n")
