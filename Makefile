# Shortcuts; the presets of CMakePresets.json do the work.
.PHONY: release test asan tsan bench demo format check

release:
	scripts/setup.sh release choir

test:
	scripts/test

asan tsan:
	scripts/test $@

bench:
	scripts/setup.sh bench

demo:
	scripts/demo

format:
	git ls-files 'src/*.h' 'src/*.cc' 'tests/*.h' 'tests/*.cc' 'bench/*.h' 'bench/*.cc' | xargs clang-format -i

check:
	python3 tools/check_layers.py
	git ls-files 'src/*.h' 'src/*.cc' 'tests/*.h' 'tests/*.cc' 'bench/*.h' 'bench/*.cc' | xargs clang-format --dry-run -Werror
