"""Sentences, and phrases that can be answers."""

import unicodedata

from jaxllm.self_param.phrases import answer_phrases, in_turns, long_words, names_and_numbers, sentences, spread


def test_sentences_end_at_punctuation_and_line_breaks():
    assert sentences('One is "here." Two?  Three!\nA heading\n\nFour.') == [
        'One is "here."', "Two?", "Three!", "A heading", "Four."]
    assert sentences("一。二！三") == ["一。", "二！", "三"] and sentences(" \n ") == []


def test_words_of_other_scripts_have_their_vowel_signs_and_accents():
    text = "रक्षा ने केवल 308 अंक दिये। लीग में छठा स्थान मिला, और चार चयन हुए।"
    assert sentences(text) == ["रक्षा ने केवल 308 अंक दिये।", "लीग में छठा स्थान मिला, और चार चयन हुए।"]
    assert answer_phrases(text, 3) == ["308", "लीग में छठा स्थान मिला", "और चार चयन हुए"]
    accents = unicodedata.normalize("NFD", "Near Zürich the Huệ counts 95 Écoles in Österreich.")
    assert [unicodedata.normalize("NFC", phrase) for phrase in answer_phrases(accents, 9)] == [
        "Near Zürich", "Huệ counts 95 Écoles", "Écoles", "Österreich"]
    assert [unicodedata.normalize("NFC", match[0]) for match in long_words(accents)] == ["Österreich"]


def test_phrases_are_names_numbers_and_runs_of_words():
    text = "Gottfried Semper built the Miller–Rabin tower in 1871. It held two innermost lamps, "
    text += "which cost 1,250 crowns."
    expected = ["Gottfried Semper built", "held two innermost lamps", "Miller–Rabin", "cost 1,250 crowns",
                "Miller–Rabin tower", "1,250", "1871"]
    assert answer_phrases(text, 99) == expected and answer_phrases(text, 3) == expected[:3]
    assert answer_phrases("The crew was tired after a while in Torla.", 9) == ["Torla", "tired", "crew"]


def test_a_limit_leaves_no_part_of_a_text_out():
    text = " ".join(f"The ship counts {number} sailors." for number in range(100, 200))
    assert answer_phrases(text, 4) == [f"ship counts {number} sailors" for number in (100, 125, 150, 175)]
    more = answer_phrases(text, 150)
    assert more[100:] == [str(number) for number in range(100, 200, 2)]
    assert spread([[1, 2], [3, 4, 5]], 9) == [1, 2, 3, 4, 5] and spread([[1, 2], [], [3]], 2) == [1, 2]
    assert list(in_turns([[1, 2, 3], [], [4]])) == [[1, 4], [2], [3]] and list(in_turns([])) == []


def test_function_words_are_no_names():
    text = 'Where John said "The cat is here". It sank, He left, I swam, and In 1990 the US, The Hague did not.'
    assert [match[0] for match in names_and_numbers(text)] == ["1990", "US", "The Hague"]
    assert answer_phrases("He may go on May 18, 1756 to the US army.", 9) == ["May", "May 18", "1756", "US army", "go"]


def test_phrases_are_listed_once_and_are_short():
    assert answer_phrases("The lamp. A Lamp! It is of the and.", 9) == ["lamp"]
    assert answer_phrases("one two three four five six", 9) == [] and answer_phrases("", 9) == []
    assert answer_phrases("It was 66 million years ago.", 9) == ["66 million years ago"]
