# Completion of `recipe` for bash, written by `recipe completion bash`. It starts no program.

@TABLE@
_recipe() {
  local cur=${COMP_WORDS[COMP_CWORD]} command='' option='' used=' ' position=0 i word
  local answer=()
  COMPREPLY=()
  [[ $cur == '=' ]] && cur='' # readline makes three words of --until=train
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    if [[ $word == '=' ]]; then
      continue
    elif [[ -n $option ]]; then
      option=''
    elif [[ $word == -* ]]; then
      used+="$word "
      _recipe_takes "$command $word" && option=$word
    elif [[ -z $command && $word == *.@(yaml|yml) ]]; then
      command=run position=1 # `recipe x.yaml` is `recipe run x.yaml`
    elif [[ -z $command ]]; then
      command=$word
    else
      ((position += 1))
    fi
  done
  if [[ -n $option ]]; then
    _recipe_takes "$command $option" && _recipe_offer "${answer[@]}"
  elif [[ $cur == -* ]]; then
    _recipe_options "$command" && _recipe_offer_options "${answer[@]}"
  elif [[ -z $command ]]; then
    _recipe_commands '' && _recipe_offer words "${answer[@]}"
    ((${#COMPREPLY[@]})) || _recipe_offer recipes locks
  elif _recipe_takes "$command $position" || _recipe_takes "$command +"; then
    _recipe_offer "${answer[@]}"
  fi
}

_recipe_offer_options() { # those not given yet, and those marked by a +
  local word
  for word; do
    [[ $used == *" $word "* ]] || _recipe_offer words "${word%+}"
  done
}

_recipe_offer() { # KIND... words WORD...: either may be missing
  local kind path
  if [[ $1 == words ]]; then
    while IFS= read -r path; do
      COMPREPLY+=("$path")
      [[ $path == *= ]] && compopt -o nospace 2>/dev/null # its value follows
    done < <(compgen -W "${*:2}" -- "$cur")
    return
  fi
  compopt -o filenames 2>/dev/null # readline quotes names and ends folders with a slash
  for kind; do
    case $kind in
      recipes) _recipe_paths '*.@(yaml|yml)' '*.lock.@(yaml|yml)' ;;
      locks) _recipe_paths '*.lock.@(yaml|yml)' '' ;;
      bundles) _recipe_paths '*.tar' '' ;;
      files) _recipe_paths '*' '' ;;
      words)
        while [[ $1 != words ]]; do shift; done
        _recipe_offer "$@"
        return
        ;;
      folders) _recipe_paths '' '' ;;
      runs)
        for path in runs/*/; do
          [[ -d $path && ${path%/} == "$cur"* ]] && COMPREPLY+=("${path%/}")
        done
        ((${#COMPREPLY[@]})) || _recipe_paths '' ''
        ;;
    esac
  done
}

_recipe_paths() { # WANTED UNWANTED: files whose names fit, and all folders but those of a run
  local path name
  [[ -e ${cur%/*}/run.json ]] && return
  while IFS= read -r path; do
    name=${path##*/}
    [[ $name == @(.|..) || ($name == .* && ${cur##*/} != .*) ]] && continue
    [[ " ${COMPREPLY[*]} " == *" $path "* ]] && continue
    # shellcheck disable=SC2053 # patterns, unquoted
    [[ -d ${path/#\~\//$HOME/} || ($name == $1 && $name != $2) ]] && COMPREPLY+=("$path")
  done < <(compgen -f -- "$cur")
}

complete -F _recipe recipe
