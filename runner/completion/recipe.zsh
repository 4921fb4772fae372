#compdef recipe
# Completion of `recipe` for zsh, written by `recipe completion zsh`. It starts no program.

@TABLE@
_recipe() {
  local command='' option='' word i
  local -i position=0
  local -a answer used
  for ((i = 2; i < CURRENT; i++)); do
    word=${words[i]}
    if [[ -n $option ]]; then
      option=''
    elif [[ $word == -* ]]; then
      used+=(${word%%=*})
      [[ $word != *=* ]] && _recipe_takes "$command $word" && option=$word
    elif [[ -z $command && $word == *.(yaml|yml) ]]; then
      command=run position=1 # `recipe x.yaml` is `recipe run x.yaml`
    elif [[ -z $command ]]; then
      command=$word
    else
      ((position += 1))
    fi
  done
  if [[ -z $option ]] && compset -P 1 '--*='; then
    option=${IPREFIX%=}
  fi
  if [[ -n $option ]]; then
    _recipe_takes "$command $option" && _recipe_offer $answer
  elif [[ $PREFIX == -* ]]; then
    _recipe_options "$command" && _recipe_offer_options $answer
  elif [[ -z $command ]]; then
    _recipe_commands ''
    _describe -t commands command answer || _recipe_offer recipes locks
  elif _recipe_takes "$command $position" || _recipe_takes "$command +"; then
    _recipe_offer $answer
  fi
}

_recipe_offer_options() { # those not given yet, and those marked by a +
  local item name
  local -a offered
  for item; do
    name=${item%%:*}
    ((${used[(Ie)$name]})) || offered+=("${name%+}${item#$name}")
  done
  _describe -o -t options option offered
}

_recipe_offer() { # KIND... words WORD...: either may be missing
  local -a offered patterns begun
  local first=${@[(ie)words]}
  if ((first <= $#)); then
    offered=("${@:$((first + 1))}")
    begun=(${(M)offered:#[^:]#=(:*|)}) # their value follows: no space
    offered=(${offered:|begun})
    (($#begun)) && _describe -t values value begun -S ''
    (($#offered)) && _describe -t values value offered
    ((first == 1)) && return
    set -- "${@:1:$((first - 1))}"
  fi
  if ((${@[(Ie)runs]})); then
    offered=(runs/*(N-/))
    offered=(${(M)offered:#${(b)PREFIX}?*})
    (($#offered)) && compadd -f -- $offered && (($# == 1)) && return
  fi
  [[ -e ${PREFIX%/*}/run.json ]] && return 1 # inside of a run
  ((${@[(Ie)recipes]} && ! ${@[(Ie)locks]})) && patterns+=('(^*.lock).(yaml|yml)(-.)')
  ((${@[(Ie)locks]})) && patterns+=('*.(yaml|yml)(-.)')
  ((${@[(Ie)bundles]})) && patterns+=('*.tar(-.)')
  ((${@[(Ie)files]})) && patterns+=('*(-.)')
  [[ $1 == nothing ]] && return 1
  (($#patterns)) && _path_files -g "${(j: :)patterns}"
  _path_files -/ # folders lead to everything
}

if [[ $funcstack[1] == _recipe ]]; then
  _recipe "$@" # from a folder of $fpath
else
  compdef _recipe recipe
fi
